//! Finds stages whose images show a build argument's value that the user's own image doesn't show.
//!
//! The classic builder writes the values that a `RUN` sees into the history of its image, and needs
//! that history byte for byte to find the image again: such a stage can't be carried. A value that
//! the Dockerfile has itself is no secret.

use std::collections::BTreeSet;

use crate::build::arguments::BuildArguments;
use crate::build::build_log::ClassicStep;
use crate::engine::Engine;
use crate::engine::error::EngineError;

/// A value that is shorter occurs by chance.
const TELLING: usize = 6;

/// A stage that shows a value.
#[derive(Debug)]
pub(crate) struct Disclosure {
    /// The stage's place in the Dockerfile.
    pub(crate) stage: usize,
    /// The argument's name.
    pub(crate) argument: String,
}

/// Looks through the stages that end with these steps, in the order of the Dockerfile.
pub(crate) fn disclosures(
    engine: &Engine,
    arguments: &BuildArguments,
    dockerfile: &[u8],
    ends: &[&ClassicStep],
) -> Result<Vec<Disclosure>, EngineError> {
    let dockerfile = String::from_utf8_lossy(dockerfile);
    let mut secrets = secrets(arguments, &dockerfile);
    let Some((last, others)) = ends.split_last().filter(|_| !secrets.is_empty()) else {
        return Ok(Vec::new());
    };
    let shown = engine.connection.history(&last.image)?;
    secrets.retain(|secret| !shown.iter().any(|entry| secret.is_in(entry)));
    let mut found = Vec::new();
    for (stage, end) in others.iter().enumerate().filter(|(_, end)| !end.image.is_empty()) {
        if secrets.is_empty() {
            break;
        }
        let history = engine.connection.history(&end.image)?;
        let hidden = secrets.iter().find(|secret| history.iter().any(|entry| secret.is_in(entry)));
        found.extend(hidden.map(|s| Disclosure { stage, argument: s.name.clone() }));
    }
    Ok(found)
}

struct Secret {
    name: String,
    /// Not known if it came from an environment that is gone.
    value: Option<String>,
    /// Whether the value alone gives it away, wherever it is.
    is_telling: bool,
}

/// The arguments of the build whose values are not the Dockerfile's own.
fn secrets(arguments: &BuildArguments, dockerfile: &str) -> Vec<Secret> {
    let values = arguments.build_args(|name| std::env::var(name).ok());
    let names: BTreeSet<String> = arguments
        .values("build-arg")
        .map(|word| word.to_string_lossy().split('=').next().unwrap_or_default().to_owned())
        .collect();
    let secrets = names.into_iter().map(|name| {
        let value = values.get(&name).cloned();
        let is_telling =
            value.as_ref().is_some_and(|v| v.len() >= TELLING && !dockerfile.contains(v.as_str()));
        Secret { name, value, is_telling }
    });
    secrets
        .filter(|secret| match &secret.value {
            Some(value) => !value.is_empty() && !is_default(dockerfile, &secret.name, value),
            None => true,
        })
        .collect()
}

/// Whether an `ARG` of the Dockerfile gives the argument this value.
fn is_default(dockerfile: &str, name: &str, value: &str) -> bool {
    dockerfile
        .lines()
        .map(str::trim)
        .filter_map(|line| line.split_once(char::is_whitespace))
        .filter(|(word, _)| word.eq_ignore_ascii_case("ARG"))
        .filter_map(|(_, rest)| rest.trim().strip_prefix(name)?.strip_prefix('='))
        .any(|default| default.trim_matches(['"', '\'']) == value)
}

impl Secret {
    /// Whether an entry of a history shows the value.
    fn is_in(&self, entry: &str) -> bool {
        // `|2 HTTP=1 TOKEN=secret /bin/sh -c make`
        if entry.starts_with('|') {
            let assignment = match &self.value {
                Some(value) => format!(" {}={value} ", self.name),
                None => format!(" {}=", self.name),
            };
            return entry.contains(&assignment);
        }
        // `/bin/sh -c #(nop)  ENV TOKEN=secret`: all but `RUN` is written down with its values.
        let value = self.value.as_deref().filter(|_| self.is_telling);
        entry.contains("#(nop)") && value.is_some_and(|value| entry.contains(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(value: Option<&str>) -> Secret {
        Secret { name: "TOKEN".into(), value: value.map(Into::into), is_telling: true }
    }

    #[test]
    fn a_value_is_found_wherever_the_builder_writes_it_down() {
        for entry in [
            "|1 TOKEN=canary-1 /bin/sh -c make",
            "|2 A=b TOKEN=canary-1 /bin/bash -c make",
            "/bin/sh -c #(nop)  ENV T=canary-1",
            "/bin/sh -c #(nop) COPY file:0 in /canary-1 ",
        ] {
            assert!(secret(Some("canary-1")).is_in(entry), "{entry}");
        }
        for entry in [
            "|1 TOKEN=canary-12 /bin/sh -c make",
            "/bin/sh -c echo canary-1",
            "|1 A=b /bin/sh -c x",
        ] {
            assert!(!secret(Some("canary-1")).is_in(entry), "{entry}");
        }
    }

    #[test]
    fn a_value_that_is_not_known_is_found_by_its_name() {
        assert!(secret(None).is_in("|1 TOKEN=anything /bin/sh -c make"));
        assert!(!secret(None).is_in("|1 OTHER_TOKEN=x /bin/sh -c make"));
    }

    #[test]
    fn a_default_of_the_dockerfile_is_no_secret() {
        let dockerfile = "FROM a\nARG OTHER=2\n  arg TOKEN=\"one two\"\n";
        assert!(is_default(dockerfile, "TOKEN", "one two"));
        assert!(!is_default(dockerfile, "TOKEN", "2"));
    }
}
