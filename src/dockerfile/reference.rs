//! Image references, in the full form that the builder resolves.

use super::error::Problem;

/// The longest path of a repository, without its domain.
const MAXIMUM_PATH: usize = 255;

/// Returns the full form of a reference: `alpine` is `docker.io/library/alpine:latest`.
pub(crate) fn normalize(name: &str) -> Result<String, Problem> {
    let fail = |reason: String| Problem::Reference { name: name.to_owned(), reason };
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (rest, None),
    };
    let (domain, path) = split_domain(repository);
    if path != path.to_lowercase() {
        return Err(fail(format!(": repository name ({path}) must be lowercase")));
    }
    // What can't be a domain can still be the first part of a path.
    let valid = (is_domain(&domain) || is_component(&domain))
        && path.split('/').all(is_component)
        && path.len() <= MAXIMUM_PATH
        && !is_identifier(name)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    if !valid {
        return Err(fail(String::new()));
    }
    let tag = match (tag, digest) {
        (None, None) => ":latest".to_owned(),
        (Some(tag), _) => format!(":{tag}"),
        (None, Some(_)) => String::new(),
    };
    let digest = digest.map(|digest| format!("@{digest}")).unwrap_or_default();
    Ok(format!("{domain}/{path}{tag}{digest}"))
}

/// Returns the short form under which `--build-context` names an image.
pub(crate) fn familiar(name: &str) -> Option<String> {
    let full = normalize(name).ok()?;
    let short = full.strip_prefix("docker.io/").unwrap_or(&full);
    let short = short.strip_prefix("library/").unwrap_or(short);
    Some(short.strip_suffix(":latest").unwrap_or(short).to_owned())
}

fn split_domain(repository: &str) -> (String, String) {
    let (domain, path) = match repository.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.to_lowercase() != first =>
        {
            (first, rest.to_owned())
        }
        _ => ("docker.io", repository.to_owned()),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    let path =
        if domain == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
    (domain.to_owned(), path)
}

/// Checks a host name or an address, with a port or without.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let address = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit() || c == ':');
    let valid = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => !inner.is_empty() && address(inner),
        None => host.split('.').all(label),
    };
    let is_port = |port: &str| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
    valid && port.is_none_or(is_port)
}

/// What could be the identifier of an image is no name.
fn is_identifier(name: &str) -> bool {
    name.len() == 64 && name.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// Checks one component of a path: letters and digits, with single separators between them.
fn is_component(component: &str) -> bool {
    let edge = |character: Option<char>| {
        character
            .is_some_and(|character| character.is_ascii_lowercase() || character.is_ascii_digit())
    };
    let separators = component
        .split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit())
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.chars().all(|dash| dash == '-')
        });
    edge(component.chars().next()) && edge(component.chars().last()) && separators
}

fn is_tag(tag: &str) -> bool {
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|character| word(character) || matches!(character, '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.starts_with(|first: char| first.is_ascii_alphabetic())
            && hex.len() >= 32
            && hex.chars().all(|digit| digit.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_get_their_full_form() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, expected) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3", "docker.io/library/alpine:3".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("r.io:5000/a/b:t", "r.io:5000/a/b:t".to_owned()),
            ("[::1]:5000/x", "[::1]:5000/x:latest".to_owned()),
            ("A.b/c", "A.b/c:latest".to_owned()),
            ("aaaa.b_c/d", "aaaa.b_c/d:latest".to_owned()),
            ("docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
            (&format!("alpine@{digest}"), format!("docker.io/library/alpine@{digest}")),
            (&format!("alpine:3@{digest}"), format!("docker.io/library/alpine:3@{digest}")),
        ] {
            assert_eq!(normalize(name).unwrap(), expected);
        }
        assert_eq!(familiar("docker.io/library/alpine:latest").as_deref(), Some("alpine"));
        assert_eq!(familiar("r.io/a:1").as_deref(), Some("r.io/a:1"));
    }

    #[test]
    fn wrong_references_are_refused() {
        let (identifier, long) = ("a".repeat(64), "a".repeat(256));
        for name in [
            "",
            "a b",
            "a//b",
            "-a",
            "a:",
            "a@sha256:x",
            "a/",
            "a..b",
            "$x",
            ".foo/bar",
            "foo./bar",
            "a..b/c",
            "a-.b/c",
            "-a.b/c",
            "localhost:/x",
            "x.y:5000a/z",
            &identifier,
            &long,
        ] {
            assert!(normalize(name).is_err(), "{name}");
        }
        assert_eq!(
            normalize("Builder").unwrap_err().to_string(),
            "failed to parse stage name \"Builder\": invalid reference format: repository name (library/Builder) must be lowercase"
        );
    }
}
