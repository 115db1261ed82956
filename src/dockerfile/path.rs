//! Paths inside an image, which are slash paths whatever machine this runs on.

/// Cleans an absolute or relative path lexically, from `parent` on where it is relative.
pub(crate) fn join(parent: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let from_parent = if path.starts_with('/') { "" } else { parent };
    for part in from_parent.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Resolves the destination of a copy; its trailing slash says that it is a directory.
pub(crate) fn destination(workdir: &str, path: &str) -> String {
    let path = if path.is_empty() || path == "." { "./" } else { path };
    let mut joined = join(workdir, path);
    if path.ends_with('/') && !joined.ends_with('/') {
        joined.push('/');
    } else if path.ends_with("/.") {
        if joined != "/" {
            joined.push('/');
        }
        joined.push('.');
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_join_and_clean() {
        for (parent, path, expected) in [
            ("/", "a", "/a"),
            ("/a", "b/../c/", "/a/c"),
            ("/a", "/b//c", "/b/c"),
            ("/a", "../../..", "/"),
            ("", "a", "/a"),
            ("/a", "", "/a"),
        ] {
            assert_eq!(join(parent, path), expected, "{parent} {path}");
        }
    }

    #[test]
    fn destinations_keep_their_slash() {
        for (workdir, path, expected) in [
            ("/a", ".", "/a/"),
            ("/a", "./", "/a/"),
            ("/a", "b", "/a/b"),
            ("/a", "b/", "/a/b/"),
            ("/", ".", "/"),
            ("/a", "/x/.", "/x/."),
        ] {
            assert_eq!(destination(workdir, path), expected, "{workdir} {path}");
        }
    }
}
