//! Ignore files: which one is in force, and what its lines say.
//!
//! `<Dockerfile>.dockerignore` beside the Dockerfile replaces `.dockerignore` in the context, even
//! when it is empty. Symbolic links are resolved as the builder does: inside the directory that the
//! file is looked up in, never out of it.

use super::error::ContextError;
use super::go_path::clean;
use super::pattern::{PatternMatcher, trim};
use super::walk::{Found, Node, Tree};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The ignore file in force.
#[derive(Debug, Default)]
pub(super) struct IgnoreFile {
    /// Where it is, or nothing when there is none.
    pub(super) path: Option<PathBuf>,
    pub(super) matcher: PatternMatcher,
}

impl IgnoreFile {
    /// Finds and reads the ignore file of a context.
    pub(super) fn find(root: &Path, dockerfile: Option<&Path>) -> Result<Self, ContextError> {
        if let Some(name) = dockerfile.and_then(Path::file_name) {
            let directory = dockerfile
                .and_then(Path::parent)
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            let name = [name.as_bytes(), b".dockerignore"].concat();
            if directory.is_dir()
                && let Some(found) = Self::read(directory, &name)?
            {
                return Ok(found);
            }
        }
        Ok(Self::read(root, b".dockerignore")?.unwrap_or_default())
    }

    fn read(directory: &Path, name: &[u8]) -> Result<Option<Self>, ContextError> {
        // The common case, no such file, needs no listing of the directory.
        let path = directory.join(OsStr::from_bytes(name));
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let tree = Tree::new(directory.to_owned(), PatternMatcher::default());
        let Some(found @ Found::Leaf { node: Node::File(_), .. }) = tree.lookup(name, true)? else {
            return Ok(None);
        };
        let content = fs::read(tree.on_disk(&found.path()))
            .map_err(|source| ContextError::read(&path, source))?;
        let matcher = parse(&content, &path)?;
        Ok(Some(Self { path: Some(path), matcher }))
    }
}

/// Reads the lines of an ignore file.
fn parse(content: &[u8], file: &Path) -> Result<PatternMatcher, ContextError> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut lines = Vec::new();
    let mut patterns = Vec::new();
    for (index, line) in content.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // A comment starts in the first column; an indented `#` is a pattern.
        if !line.starts_with(b"#")
            && let Some(pattern) = normalise(line)
        {
            lines.push((index + 1, line));
            patterns.push(pattern);
        }
    }
    PatternMatcher::new(patterns.iter().map(Vec::as_slice)).map_err(|(bad, reason)| {
        let (line, text) = lines[bad];
        ContextError::IgnorePattern {
            file: file.to_owned(),
            line,
            pattern: String::from_utf8_lossy(trim(text)).into_owned(),
            reason,
        }
    })
}

/// Cleans a line and takes one leading slash away, behind the `!` where there is one.
fn normalise(line: &[u8]) -> Option<Vec<u8>> {
    let line = trim(line);
    let (sign, text) = match line.strip_prefix(b"!") {
        Some(text) => (b"!".as_slice(), trim(text)),
        None => (b"".as_slice(), line),
    };
    if text.is_empty() {
        return (!sign.is_empty()).then(|| sign.to_vec());
    }
    let text = clean(text);
    let text = if text.len() > 1 { text.strip_prefix(b"/").unwrap_or(&text) } else { &text };
    Some([sign, text].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn ignores(content: &[u8], path: &str) -> bool {
        parse(content, Path::new(".dockerignore")).unwrap().matches(path.as_bytes(), None).0
    }

    #[test]
    fn reads_lines_as_moby_does() {
        let content = "\u{feff}# comment\r\n\r\n  /test1 \r\n./test2/\n#test3\n a/../test4/./*\n \
                       #test5\n/\n ! /test4/keep \n";
        for (path, expected) in [
            ("test1", true),
            ("test1/below", true),
            ("test2/x", true),
            ("test3", false),
            ("#test3", false),
            ("test4/x", true),
            ("test4/keep", false),
            // An indented comment is a pattern.
            ("#test5", true),
            ("other", false),
        ] {
            assert_eq!(ignores(content.as_bytes(), path), expected, "{path}");
        }
        assert!(ignores(b"caf\xc3\xa9", "café"));
        assert!(!ignores(b"", "a"));
    }

    #[test]
    fn keeps_bytes_that_are_not_utf8() {
        let matcher = parse(b" a\xff \n", Path::new("x")).unwrap();
        assert!(matcher.matches(b"a\xff", None).0);
        assert!(!matcher.matches(b"a\xfe", None).0);
    }

    #[test]
    fn names_file_and_line_of_a_bad_pattern() {
        for (content, line, pattern) in
            [("ok\n\n  [z-\n", 3, "[z-"), ("#\n!\n", 2, "!"), ("[Local-Only]/", 1, "[Local-Only]/")]
        {
            let error = parse(content.as_bytes(), Path::new("my/.dockerignore")).unwrap_err();
            let start = format!("`my/.dockerignore` line {line}: invalid pattern `{pattern}`: ");
            assert!(error.to_string().starts_with(&start), "{error}");
        }
    }

    #[test]
    fn the_dockerfile_s_own_file_replaces_the_context_s() {
        let temp = tempfile::tempdir().unwrap();
        let (context, docker) = (temp.path().join("context"), temp.path().join("docker"));
        fs::create_dir(&context).unwrap();
        fs::create_dir(&docker).unwrap();
        let dockerfile = docker.join("App");
        let in_force = || IgnoreFile::find(&context, Some(&dockerfile)).unwrap().path;

        assert_eq!(in_force(), None);
        fs::write(context.join(".dockerignore"), "a").unwrap();
        assert_eq!(in_force(), Some(context.join(".dockerignore")));
        // Empty, it still replaces.
        fs::write(docker.join("App.dockerignore"), "").unwrap();
        assert_eq!(in_force(), Some(docker.join("App.dockerignore")));
        assert!(IgnoreFile::find(&context, Some(&dockerfile)).unwrap().matcher.is_empty());
        assert!(!IgnoreFile::find(&context, None).unwrap().matcher.is_empty());
    }

    #[test]
    fn links_and_directories_in_its_place() {
        let temp = tempfile::tempdir().unwrap();
        let context = temp.path().join("context");
        fs::create_dir_all(context.join("conf")).unwrap();
        fs::write(context.join("conf/ignore"), "a").unwrap();
        fs::write(temp.path().join("outside"), "b").unwrap();
        let at = context.join(".dockerignore");
        let matches =
            |path: &[u8]| IgnoreFile::find(&context, None).unwrap().matcher.matches(path, None).0;

        symlink("/conf/ignore", &at).unwrap();
        assert!(matches(b"a"));
        fs::remove_file(&at).unwrap();
        symlink("../outside", &at).unwrap();
        assert!(!matches(b"b"), "a link never leaves the context");
        fs::remove_file(&at).unwrap();
        fs::create_dir(&at).unwrap();
        assert!(!matches(b"a"));
    }
}
