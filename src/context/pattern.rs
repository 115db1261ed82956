//! Moby's pattern matcher: what `.dockerignore`, `--exclude`, and `--parents` patterns mean.
//!
//! Follows `moby/patternmatcher` down to its oddities. The builder walks a tree and carries each
//! directory's results into the directory (`MatchesUsingParentResults`), so that is the only form
//! here; it differs from matching a lone path where a pattern stands after a `!` of the same name.

use super::go_path::{chars, check_against_dot, clean};
use super::program::Program;

/// How large all patterns of a file may be together, in bytes of their automata.
const MAXIMUM_SIZE: usize = 64 << 20;

/// An ordered list of patterns; the last one that matches wins.
#[derive(Debug, Default)]
pub(super) struct PatternMatcher {
    patterns: Vec<Pattern>,
}

/// Which patterns matched a directory or one of its parents.
#[derive(Debug, Clone)]
pub(super) struct MatchInfo(Vec<bool>);

#[derive(Debug)]
struct Pattern {
    negated: bool,
    text: Vec<u8>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The path is the text.
    Exact,
    /// The text ends in `**`: the path starts with what is before.
    Prefix,
    /// The text starts with `**`: the path ends with the rest.
    Suffix,
    Program(Box<Program>),
}

impl PatternMatcher {
    /// Compiles patterns; an error comes with the index of the bad one.
    pub(super) fn new<'a>(
        patterns: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, (usize, &'static str)> {
        let mut compiled: Vec<Pattern> = Vec::new();
        let mut size = 0;
        for (index, text) in patterns.into_iter().enumerate() {
            let text = trim(text);
            if !text.is_empty() {
                let pattern = Pattern::new(text).map_err(|reason| (index, reason))?;
                size += pattern.size();
                if size > MAXIMUM_SIZE {
                    return Err((index, "the patterns up to here are too large together"));
                }
                compiled.push(pattern);
            }
        }
        Ok(Self { patterns: compiled })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Matches a path whose parent directory's results are known, or (without them) by itself.
    pub(super) fn matches(&self, path: &[u8], parent: Option<&MatchInfo>) -> (bool, MatchInfo) {
        let mut matched = false;
        let mut info = vec![false; self.patterns.len()];
        for (index, pattern) in self.patterns.iter().enumerate() {
            let mut hit = parent.is_some_and(|parent| parent.0[index]);
            if !hit {
                // A pattern that can't change the result is not looked at, here or below.
                if pattern.negated != matched {
                    continue;
                }
                hit = pattern.matches(path)
                    || (parent.is_none() && parents(path).any(|parent| pattern.matches(parent)));
            }
            info[index] = hit;
            if hit {
                matched = !pattern.negated;
            }
        }
        (matched, MatchInfo(info))
    }

    /// Whether everything below a directory that matched is sure to match as well.
    pub(super) fn all_below_match(&self, directory: &[u8], info: &MatchInfo) -> bool {
        let Some(last) =
            (0..self.patterns.len()).rfind(|&index| info.0[index] && !self.patterns[index].negated)
        else {
            return false;
        };
        self.patterns[last + 1..]
            .iter()
            .all(|later| !later.negated || !later.may_match_below(directory))
    }

    /// Whether nothing below a directory that did not match can match.
    pub(super) fn none_below_match(&self, directory: &[u8], info: &MatchInfo) -> bool {
        self.patterns
            .iter()
            .zip(&info.0)
            .all(|(pattern, &hit)| pattern.negated || (!hit && !pattern.may_match_below(directory)))
    }
}

impl Pattern {
    fn new(text: &[u8]) -> Result<Self, &'static str> {
        let mut text = clean(text);
        let negated = text.first() == Some(&b'!');
        if negated {
            text.remove(0);
            if text.is_empty() {
                return Err("nothing follows the `!`");
            }
        }
        check_against_dot(&text)?;
        let kind = Kind::compile(&text)?;
        Ok(Self { negated, text, kind })
    }

    /// How many bytes it takes.
    fn size(&self) -> usize {
        match &self.kind {
            Kind::Program(program) => program.size(),
            _ => 1,
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        match &self.kind {
            Kind::Exact => path == self.text,
            Kind::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            Kind::Suffix => {
                let suffix = &self.text[2..];
                path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path)
            }
            Kind::Program(program) => program.matches(path),
        }
    }

    fn may_match_below(&self, directory: &[u8]) -> bool {
        let below = [directory, b"/"].concat();
        match &self.kind {
            Kind::Exact => self.text.starts_with(&below),
            Kind::Prefix => {
                let prefix = &self.text[..self.text.len() - 2];
                prefix.starts_with(&below) || below.starts_with(prefix)
            }
            Kind::Suffix => true,
            Kind::Program(program) => program.may_match_after(&below),
        }
    }
}

impl Kind {
    /// Translates a pattern as moby does, special cases included.
    fn compile(text: &[u8]) -> Result<Self, &'static str> {
        #[derive(PartialEq)]
        enum Seen {
            Exact,
            Prefix,
            Suffix,
            Program,
        }

        let mut seen = Seen::Exact;
        let mut expression = String::new();
        // Go's scanner skips this one at the start of a text.
        let mut input = chars(text).peekable();
        input.next_if_eq(&'\u{feff}');
        let mut at_start = true;
        while let Some(c) = input.next() {
            match c {
                '*' if input.next_if_eq(&'*').is_some() => {
                    // `**/` is `**`.
                    input.next_if_eq(&'/');
                    if input.peek().is_some() {
                        expression.push_str("(.*/)?");
                        seen = Seen::Program;
                    } else if seen == Seen::Exact {
                        seen = Seen::Prefix;
                    } else {
                        expression.push_str(".*");
                        seen = Seen::Program;
                    }
                    if at_start {
                        seen = Seen::Suffix;
                    }
                }
                '*' => {
                    expression.push_str("[^/]*");
                    seen = Seen::Program;
                }
                '?' => {
                    expression.push_str("[^/]");
                    seen = Seen::Program;
                }
                // Moby means to escape `|`, `{` and `}`, too, and does not.
                '.' | '+' | '(' | ')' | '$' => expression.extend(['\\', c]),
                '\\' => {
                    expression.push('\\');
                    if let Some(escaped) = input.next() {
                        expression.push(escaped);
                        seen = Seen::Program;
                    }
                }
                '[' | ']' => {
                    expression.push(c);
                    seen = Seen::Program;
                }
                _ => expression.push(c),
            }
            at_start = false;
        }
        Ok(match seen {
            Seen::Exact => Self::Exact,
            Seen::Prefix => Self::Prefix,
            Seen::Suffix => Self::Suffix,
            Seen::Program => Self::Program(Box::new(Program::compile(&expression)?)),
        })
    }
}

/// The directories above a path, outermost first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| &path[..at])
}

/// Trims white space as Go does: Unicode's, where the text is UTF-8.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(patterns: &[&str]) -> PatternMatcher {
        PatternMatcher::new(patterns.iter().map(|pattern| pattern.as_bytes())).unwrap()
    }

    /// Matches as a walk does: directory by directory.
    fn walked(matcher: &PatternMatcher, path: &str) -> bool {
        let mut info = None;
        for parent in parents(path.as_bytes()) {
            info = Some(matcher.matches(parent, info.as_ref()).1);
        }
        matcher.matches(path.as_bytes(), info.as_ref()).0
    }

    /// Moby's published table: the pattern, the path, and whether the path or a parent matches.
    const PUBLISHED: &[(&str, &str, bool)] = &[
        ("**", "file", true),
        ("**", "file/", true),
        ("**/", "file", true),
        ("**/", "file/", true),
        ("**", "/", true),
        ("**/", "/", true),
        ("**", "dir/file", true),
        ("**/", "dir/file/", true),
        ("**/**", "dir/file", true),
        ("**/**", "dir/file/", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("dir/**", "dir/dir2/file/", true),
        ("**/dir", "dir", true),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/*", "dir/dir2/file/", true),
        ("**/dir2/**", "dir/dir2/dir3/file", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**/file", "dir/dir/file", true),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/file*.txt*", "dir/dir/file.txt", true),
        ("**/**/*.txt", "dir/dir/file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("**/*.txt", "file.txt", true),
        ("**/**/*.txt", "file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt", "a/file.txt", true),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ae", false),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcdef", false),
        ("abc.def", "abc.def", true),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("abc?def", "abcdef", false),
        ("a\\\\", "a\\", true),
        ("a\\*b", "a*b", true),
        ("**/foo/bar", "foo/bar", true),
        ("**/foo/bar", "dir/dir2/foo/bar", true),
        ("abc/**", "abc", false),
        ("abc/**", "abc/def/ghi", true),
        ("**/.foo", ".foo", true),
        ("**/.foo", "bar.foo", false),
        ("a(b)c/def", "a(b)c/def", true),
        ("a(b)c/def", "a(b)c/xyz", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
        ("*", "fileutils.go", true),
        ("*.go", "fileutils.go", true),
        ("*.go", ".", false),
        // From Go's own table; a parent counts, so `a*` matches `ab/c`.
        ("a*", "ab/c", true),
        ("a*/b", "a/c/b", false),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
        ("a*b?c*x", "abxbbxdbxebxczzx", true),
        ("a*b?c*x", "abxbbxdbxebxczzy", false),
        ("a[^a]b", "a☺b", true),
        ("a???b", "a☺b", false),
        ("[a-ζ]*", "α", true),
        ("*[a-ζ]", "A", false),
        ("[\\]a]", "]", true),
        ("[x\\-]", "-", true),
        ("[\\-x]", "a", false),
        ("a?b", "a/b", false),
        // What the translation to an expression does to odd patterns.
        ("a[^b]c", "a/c", true),
        ("x[*]", "x*", false),
        ("x[a*]", "xa]", true),
        ("v\\d", "v7", true),
        ("a^b", "a^b", true),
        ("a^*", "a^b", false),
        ("[[:digit:]]x", "7x", true),
        // `|`, `{` and `}` are not escaped where there is a wildcard; elsewhere they are text.
        ("*.log|*.tmp", "a.log", true),
        ("*.log|*.tmp", "b.tmp", true),
        ("*.log|*.tmp", "c.x", false),
        ("*.log|*.tmp", "xa.log/y", true),
        ("a|b", "a|b", true),
        ("a|b", "a", false),
        ("a|b*", "abz", true),
        ("a|b*", "bb", true),
        ("a|b*", "x", false),
        ("a|b/c*", "a", true),
        ("a|b/c*", "b/cd", true),
        ("a|b/c*", "b", false),
        ("(a|b)*", "(a|b)", true),
        ("(a|b)*", "a", false),
        ("(a|b)*", "(ac", true),
        ("*x|", "b", true),
        ("a{2}", "aa", false),
        ("a{2}*", "aa", true),
        ("a{2}*", "aab", true),
        ("a{2}*", "a", false),
        ("x{1,2}?", "xxy", true),
        ("x{1,2}?", "x{1,2}y", false),
        ("{a,b}*", "{a,b}z", true),
        ("{a,b}*", "a", false),
        ("*{", "a{", true),
        ("*a{,3}", "a{,3}", true),
        ("*a{,3}", "aaa", false),
        ("*a{2}|c", "c", true),
        ("*a{2}|c", "aaa", true),
        ("*a{2}|c", "d", false),
        ("?{2,}", "abc", true),
        ("?{2,}", "a", false),
        ("\u{feff}b*", "b1", true),
        ("\u{feff}b", "b", false),
        ("build*[0-9-]", "build-", true),
        ("build*[0-9-]", "buildx", false),
    ];

    #[test]
    fn agrees_with_the_published_table() {
        for &(pattern, path, expected) in PUBLISHED {
            let matcher = matcher(&[pattern]);
            assert_eq!(walked(&matcher, path), expected, "walked {pattern} {path}");
            assert_eq!(matcher.matches(path.as_bytes(), None).0, expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_match_wins() {
        for (patterns, path, expected) in [
            (&["!fileutils.go", "*.go"] as &[&str], "fileutils.go", true),
            (&["*.go", "!fileutils.go"], "fileutils.go", false),
            (&["docs", "!docs/README.md"], "docs/README.md", false),
            (&["docs/", "!docs/README.md"], "docs/README.md", false),
            (&["docs/*", "!docs/README.md"], "docs/README.md", false),
            (&["docs", "  !docs/README.md  "], "docs/README.md", false),
            (&["**", "!util/docker/web"], "util/docker/web/foo", false),
            (&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", true),
            (&["**", "!dist/*.whl"], "dist/a-1.0+g1.whl", false),
            (&["", "  "], "a", false),
            (&[], "/any/path/there", false),
        ] {
            let matcher = matcher(patterns);
            assert_eq!(walked(&matcher, path), expected, "walked {patterns:?} {path}");
            assert_eq!(matcher.matches(path.as_bytes(), None).0, expected, "{patterns:?} {path}");
        }
    }

    #[test]
    fn a_repeated_pattern_is_forgotten_by_a_walk() {
        // The second `a` is skipped at the directory and does not match the path itself.
        let matcher = matcher(&["a", "!a/b", "a"]);
        assert!(!walked(&matcher, "a/b"));
        assert!(matcher.matches(b"a/b", None).0);
    }

    #[test]
    fn refuses_bad_patterns() {
        for bad in [
            "a*{2}{3}",
            "*{2}",
            "|{2}*",
            "a*b{1001}",
            "a*b{3,2}",
            "x*[",
            "!",
            "[",
            "[]a]",
            "[-]",
            "[x-]",
            "a[",
            "\\",
            "[Local-Only]",
            "\\y",
        ] {
            let result = PatternMatcher::new(["ok".as_bytes(), bad.as_bytes()]);
            assert_eq!(result.map_err(|(index, _)| index).err(), Some(1), "{bad}");
        }
    }

    #[test]
    fn prunes_what_no_exception_reaches() {
        let pruned = |patterns: &[&str], directory: &str| {
            let matcher = matcher(patterns);
            let (ignored, info) = matcher.matches(directory.as_bytes(), None);
            ignored && matcher.all_below_match(directory.as_bytes(), &info)
        };
        assert!(pruned(&["node_modules"], "node_modules"));
        assert!(pruned(&["node_modules", "!src/**/*.js"], "node_modules"));
        assert!(pruned(&["!node_modules/keep", "node_modules"], "node_modules"));
        assert!(pruned(&["*", "!src"], "node_modules"));
        assert!(pruned(&["**/node_modules", "!packages/*/dist"], "packages/a/node_modules"));
        assert!(!pruned(&["node_modules", "!node_modules/keep"], "node_modules"));
        assert!(!pruned(&["node_modules", "!**/*.md"], "node_modules"));
        assert!(!pruned(&["packages", "!packages/*/dist"], "packages/a"));
        assert!(!pruned(&["src/*.o"], "src"));
    }

    /// Matches a glob by trying everything, with no translation in between.
    fn oracle_glob(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => path.is_empty(),
            // `**` at the end takes all; before more it takes nothing or whole directories.
            [b'*', b'*', rest @ ..] => {
                let rest = rest.strip_prefix(b"/").unwrap_or(rest);
                rest.is_empty()
                    || oracle_glob(rest, path)
                    || (0..path.len())
                        .any(|at| path[at] == b'/' && oracle_glob(rest, &path[at + 1..]))
            }
            [b'*', rest @ ..] => (0..=path.len())
                .take_while(|&at| at == 0 || path[at - 1] != b'/')
                .any(|at| oracle_glob(rest, &path[at..])),
            [b'?', rest @ ..] => {
                path.first().is_some_and(|&c| c != b'/') && oracle_glob(rest, &path[1..])
            }
            [c, rest @ ..] => path.first() == Some(c) && oracle_glob(rest, &path[1..]),
        }
    }

    /// Moby's special case: after a leading `**`, plain text may end a name anywhere.
    fn oracle(pattern: &str, path: &str) -> bool {
        match pattern.strip_prefix("**") {
            Some(rest) if !rest.contains(['*', '?']) => {
                path.ends_with(rest) || rest.strip_prefix('/') == Some(path)
            }
            _ => oracle_glob(pattern.as_bytes(), path.as_bytes()),
        }
    }

    fn any_pattern() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[ab]{1,2}",
            2 => Just("*".to_owned()),
            2 => Just("**".to_owned()),
            1 => "[ab]\\*", 1 => "\\*[ab]", 1 => "[ab]\\?", 1 => "\\?"
        ];
        (any::<bool>(), prop::collection::vec(part, 1..4)).prop_map(|(negated, parts)| {
            format!("{}{}", if negated { "!" } else { "" }, parts.join("/"))
        })
    }

    fn any_path() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]{1,2}", 1..5).prop_map(|parts| parts.join("/"))
    }

    proptest! {
        #[test]
        fn agrees_with_an_oracle(patterns in prop::collection::vec(any_pattern(), 0..5), path in any_path()) {
            let texts: Vec<&str> = patterns.iter().map(String::as_str).collect();
            // The oracle: each directory on the way, outermost first, with the state so far.
            let mut hits = vec![false; texts.len()];
            let mut expected = false;
            let steps = parents(path.as_bytes()).chain([path.as_bytes()]);
            for step in steps.map(|step| std::str::from_utf8(step).unwrap()) {
                expected = false;
                for (hit, text) in hits.iter_mut().zip(&texts) {
                    let plain = text.strip_prefix('!').unwrap_or(text);
                    let negated = plain.len() != text.len();
                    *hit |= negated == expected && oracle(plain, step);
                    if *hit {
                        expected = !negated;
                    }
                }
            }
            prop_assert_eq!(walked(&matcher(&texts), &path), expected);
        }

        #[test]
        fn pruning_never_hides_a_path(patterns in prop::collection::vec(any_pattern(), 0..5), path in any_path()) {
            let matcher = matcher(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
            let mut info = None;
            for directory in parents(path.as_bytes()) {
                let (matched, found) = matcher.matches(directory, info.as_ref());
                if matched && matcher.all_below_match(directory, &found) {
                    prop_assert!(walked(&matcher, &path));
                }
                if !matched && matcher.none_below_match(directory, &found) {
                    prop_assert!(!walked(&matcher, &path));
                }
                info = Some(found);
            }
        }
    }
}
