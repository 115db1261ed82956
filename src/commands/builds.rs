//! Which builds the user names: those of `docker build`, one or several, or of a bake file.

use std::ffi::OsString;

use super::environment;
use crate::cli::Builds;
use crate::engine::arguments::BuildArguments;
use crate::engine::bake;
use crate::engine::client::Client;
use crate::exit::Failure;

/// Stands between the arguments of several builds.
const SEPARATOR: &str = "--and";

/// The arguments of each build; none if no build is named.
pub(super) fn named(builds: &Builds, client: &Client) -> Result<Vec<BuildArguments>, Failure> {
    if builds.bake {
        return Ok(bake::builds(client, &builds.arguments)?);
    }
    if builds.arguments.is_empty() {
        return Ok(Vec::new());
    }
    Ok(separate(&builds.arguments))
}

/// The arguments of each build where there has to be one: without any, what is missing is told
/// when the project is read.
pub(super) fn required(builds: &Builds, client: &Client) -> Result<Vec<BuildArguments>, Failure> {
    let named = named(builds, client)?;
    Ok(if named.is_empty() { separate(&[]) } else { named })
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
