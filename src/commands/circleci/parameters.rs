//! The orb's parameters, and the arguments of `docker build` that they stand for.

use std::collections::BTreeMap;

use super::substitute::substitute;
use crate::commands::exit::Failure;

/// The environment of a step.
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn of_process() -> Self {
        let text = |value: std::ffi::OsString| value.into_string().ok();
        Self(std::env::vars_os().filter_map(|(k, v)| Some((text(k)?, text(v)?))).collect())
    }

    /// A parameter as it was written; empty if the step doesn't have it.
    pub(super) fn raw(&self, name: &str) -> &str {
        self.0.get(&format!("PARAM_{name}")).map_or("", String::as_str)
    }

    /// A parameter with its variables replaced.
    fn text(&self, name: &str) -> Result<String, Failure> {
        self.replaced(name, self.raw(name))
    }

    /// One value a line. A variable with several lines is one value still.
    fn lines(&self, name: &str) -> Result<Vec<String>, Failure> {
        let lines = self.raw(name).lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| self.replaced(name, line)).collect()
    }

    fn replaced(&self, name: &str, text: &str) -> Result<String, Failure> {
        substitute(text, |variable| self.0.get(variable).cloned())
            .map_err(|why| Failure::usage(format!("parameter `{}`: {why}", name.to_lowercase())))
    }

    /// The image's names: each name of `image` with each tag of `tag`.
    pub(super) fn names(&self) -> Result<Vec<String>, Failure> {
        let images = self.lines("IMAGE")?;
        let tags = self.text("TAG")?;
        let tags: Vec<_> =
            tags.split([',', '\n']).map(str::trim).filter(|t| !t.is_empty()).collect();
        if tags.is_empty() {
            return Ok(images);
        }
        if let Some(tagged) = images.iter().find(|image| untagged(image) != image.as_str()) {
            return Err(Failure::usage(format!(
                "parameter `image`: `{tagged}` has a tag already: name tags in `image` or in `tag`"
            )));
        }
        Ok(images.iter().flat_map(|i| tags.iter().map(move |tag| format!("{i}:{tag}"))).collect())
    }

    /// The arguments of the build.
    pub(super) fn build(&self) -> Result<Vec<String>, Failure> {
        let mut arguments = Vec::new();
        let mut option = |name: &str, values: Vec<String>| {
            for value in values {
                arguments.extend([name.to_owned(), value]);
            }
        };
        option("--tag", self.names()?);
        option("--build-arg", self.lines("BUILD_ARGS")?);
        for (flag, name) in
            [("--target", "TARGET"), ("--platform", "PLATFORM"), ("--file", "DOCKERFILE")]
        {
            option(
                flag,
                Some(self.text(name)?).filter(|value| !value.is_empty()).into_iter().collect(),
            );
        }
        arguments.extend(self.lines("EXTRA_ARGS")?);
        let context = self.text("DOCKER_CONTEXT")?;
        arguments.push(if context.is_empty() { ".".to_owned() } else { context });
        Ok(arguments)
    }

    /// The arguments of all builds that share the archive, with `--and` between them.
    pub(super) fn all_builds(&self) -> Result<Vec<String>, Failure> {
        let mut arguments = self.build()?;
        let others = self.lines("OTHER_BUILDS")?;
        if !others.is_empty() {
            arguments.push("--and".to_owned());
            arguments.extend(others);
        }
        Ok(arguments)
    }

    /// What keeps caches apart: the image's name without its tag, which may be another one in every
    /// job.
    pub(super) fn project(&self) -> Result<Option<String>, Failure> {
        let project = self.text("PROJECT")?;
        if !project.is_empty() {
            return Ok(Some(project));
        }
        Ok(self.lines("IMAGE")?.first().map(|image| untagged(image).to_owned()))
    }

    pub(super) fn salt(&self) -> Result<String, Failure> {
        Ok(format!("{}/{}", self.text("KEY_PREFIX")?, self.text("CACHE_VERSION")?))
    }
}

/// An image's name without tag and digest. A colon before a slash is a port's.
fn untagged(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    let last = image.rfind('/').map_or(0, |slash| slash + 1);
    image[last..].find(':').map_or(image, |colon| &image[..last + colon])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(values: &[(&str, &str)]) -> Parameters {
        Parameters(values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn parameters_become_arguments() {
        let all = parameters(&[
            ("SHA", "abc"),
            ("PARAM_IMAGE", "acme/app\nlocalhost:5000/app\n"),
            ("PARAM_TAG", "latest, $SHA"),
            ("PARAM_BUILD_ARGS", "A=x y 'z'\n\nTOKEN"),
            ("PARAM_EXTRA_ARGS", "--pull\n--label=a=b c"),
            ("PARAM_TARGET", "prod"),
            ("PARAM_PLATFORM", "linux/arm64"),
            ("PARAM_DOCKERFILE", "my dir/Dockerfile"),
            ("PARAM_DOCKER_CONTEXT", "my dir"),
            ("PARAM_OTHER_BUILDS", "worker"),
        ]);
        let expected = [
            "--tag",
            "acme/app:latest",
            "--tag",
            "acme/app:abc",
            "--tag",
            "localhost:5000/app:latest",
            "--tag",
            "localhost:5000/app:abc",
            "--build-arg",
            "A=x y 'z'",
            "--build-arg",
            "TOKEN",
            "--target",
            "prod",
            "--platform",
            "linux/arm64",
            "--file",
            "my dir/Dockerfile",
            "--pull",
            "--label=a=b c",
            "my dir",
        ];
        assert_eq!(all.build().unwrap(), expected);
        assert_eq!(all.all_builds().unwrap()[expected.len()..], ["--and", "worker"]);
    }

    #[test]
    fn no_parameters_are_a_build_of_the_working_directory() {
        assert_eq!(parameters(&[]).build().unwrap(), ["."]);
        assert_eq!(parameters(&[]).project().unwrap(), None);
    }

    #[test]
    fn a_variable_of_several_lines_is_one_value() {
        let all = parameters(&[("CERT", "a\nb"), ("PARAM_BUILD_ARGS", "CERT=$CERT")]);
        assert_eq!(all.build().unwrap(), ["--build-arg", "CERT=a\nb", "."]);
    }

    #[test]
    fn the_project_is_the_image_without_its_tag() {
        for (image, project) in [
            ("acme/app:$SHA", "acme/app"),
            ("localhost:5000/app", "localhost:5000/app"),
            ("localhost:5000/app:1@sha256:0", "localhost:5000/app"),
            ("app", "app"),
        ] {
            let all = parameters(&[("SHA", "abc"), ("PARAM_IMAGE", image)]);
            assert_eq!(all.project().unwrap().as_deref(), Some(project));
        }
        let named = parameters(&[("PARAM_IMAGE", "app"), ("PARAM_PROJECT", "mine")]);
        assert_eq!(named.project().unwrap().as_deref(), Some("mine"));
    }

    #[test]
    fn mistakes_name_the_parameter() {
        let error = parameters(&[("PARAM_TARGET", "$NOPE")]).build().unwrap_err().message;
        assert!(error.contains("`target`") && error.contains("`NOPE`"), "{error}");
        let both = parameters(&[("PARAM_IMAGE", "app:1"), ("PARAM_TAG", "2")]);
        assert!(both.names().unwrap_err().message.contains("has a tag already"));
    }
}
