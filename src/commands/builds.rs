//! Which builds the user names: those of `docker build`, one or several, of a bake file, or of compose.

use std::ffi::OsString;
use std::path::Path;

use super::exit::Failure;
use crate::build::arguments::BuildArguments;
use crate::build::bake::Planner;
use crate::cli::Builds;
use crate::engine::client::Client;
use crate::engine::client::targets::targets;
use crate::job::environment;
use crate::job::named::Named;
use crate::report::Reporter;

/// Stands between the arguments of several builds.
const SEPARATOR: &str = "--and";

/// The builds that the options and arguments name.
pub(super) fn named(
    builds: &Builds,
    client: &Client,
    scratch: Option<&Path>,
    reporter: Reporter,
) -> Result<Named, Failure> {
    if builds.bake {
        let targets = targets(client, Planner::Bake, &builds.arguments, None)?;
        return Ok(Named::of(targets, scratch, reporter)?);
    }
    if builds.compose {
        let mut words = vec![OsString::from("build")];
        words.extend(builds.arguments.iter().cloned());
        let targets = targets(client, Planner::Compose, &words, None)?;
        return Ok(Named::of(targets, scratch, reporter)?);
    }
    if builds.arguments.is_empty() {
        return Ok(Named::default());
    }
    Ok(Named::plain(separate(&builds.arguments)))
}

/// As [`named`] where there has to be one: without any, what is missing is reported when the project is
/// read.
pub(super) fn required(
    builds: &Builds,
    client: &Client,
    reporter: Reporter,
) -> Result<Named, Failure> {
    let mut named = named(builds, client, None, reporter)?;
    if named.builds.is_empty() {
        named.builds = separate(&[]);
    }
    Ok(named)
}

fn separate(words: &[OsString]) -> Vec<BuildArguments> {
    let builds = words.split(|word| word == SEPARATOR);
    builds.map(|words| BuildArguments::of_user(words.iter().cloned(), environment)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_builds_are_told_apart() {
        let words = ["-t", "app", ".", "--and", "-t", "worker", "worker"].map(OsString::from);
        let names: Vec<_> = separate(&words).iter().map(BuildArguments::image_name).collect();
        assert_eq!(names, [Some("app".to_owned()), Some("worker".to_owned())]);
    }
}
