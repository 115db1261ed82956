//! Go's `path` rules on bytes: `Clean`, `Base`, and `Match`, which the builder uses for sources.
//!
//! Paths are bytes because file names need not be UTF-8.

/// Removes double slashes, `.`, and resolves `..` where it can.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(&last) if last != b".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/".as_slice(), &joined].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// Cleans a path below the root of the context: starts with a slash, or is empty for the root.
pub(super) fn below_root(path: &[u8]) -> Vec<u8> {
    let mut cleaned = clean(&[b"/", path].concat());
    if cleaned == b"/" {
        cleaned.clear();
    }
    cleaned
}

/// The last component. The base of nothing is a dot, as in Go.
pub(super) fn base(path: &[u8]) -> &[u8] {
    if path.is_empty() {
        return b".";
    }
    path.rsplit(|&b| b == b'/').find(|part| !part.is_empty()).unwrap_or(b"/")
}

/// Whether a path holds an unescaped wildcard.
pub(super) fn has_wildcards(path: &[u8]) -> bool {
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Decodes the first character. A byte that is no UTF-8 is one replacement character, as in Go.
pub(super) fn first_char(bytes: &[u8]) -> Option<(char, usize)> {
    let first = *bytes.first()?;
    if first.is_ascii() {
        return Some((char::from(first), 1));
    }
    for width in 2..=bytes.len().min(4) {
        if let Ok(text) = std::str::from_utf8(&bytes[..width])
            && let Some(c) = text.chars().next()
        {
            return Some((c, width));
        }
    }
    Some((char::REPLACEMENT_CHARACTER, 1))
}

/// Decodes all characters in the same manner.
pub(super) fn chars(bytes: &[u8]) -> impl Iterator<Item = char> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (c, width) = first_char(rest)?;
        rest = &rest[width..];
        Some(c)
    })
}

/// A parsed `path.Match` pattern.
pub(super) struct Glob {
    items: Vec<Item>,
}

enum Item {
    Star,
    Any,
    Byte(u8),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

const UNCLOSED: &str = "the class is not closed with `]`";

impl Glob {
    /// Parses a pattern; refuses exactly what Go refuses.
    pub(super) fn parse(pattern: &[u8]) -> Result<Self, &'static str> {
        let mut items = Vec::new();
        let mut rest = pattern;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            items.push(match byte {
                b'*' => Item::Star,
                b'?' => Item::Any,
                b'\\' => {
                    let (&escaped, tail) = rest.split_first().ok_or("nothing follows the `\\`")?;
                    rest = tail;
                    Item::Byte(escaped)
                }
                b'[' => {
                    let (class, tail) = parse_class(rest)?;
                    rest = tail;
                    class
                }
                _ => Item::Byte(byte),
            });
        }
        Ok(Self { items })
    }

    /// Whether the whole name matches; `*` and `?` do not match a slash.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let (mut item, mut at) = (0, 0);
        // Where to go on when something does not fit: after the last star, one byte further.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let step = match self.items.get(item) {
                Some(Item::Star) => {
                    retry = Some((item + 1, at));
                    item += 1;
                    continue;
                }
                Some(one) => one.step(&name[at..]),
                None if at == name.len() => return true,
                None => None,
            };
            if let Some(width) = step {
                item += 1;
                at += width;
                continue;
            }
            match retry {
                Some((after, from)) if from < name.len() && name[from] != b'/' => {
                    retry = Some((after, from + 1));
                    (item, at) = (after, from + 1);
                }
                _ => return false,
            }
        }
    }
}

/// Refuses what moby's matcher refuses beforehand. It looks for errors by matching the pattern
/// against a dot, and sees those that it comes to.
pub(super) fn check_against_dot(pattern: &[u8]) -> Result<(), &'static str> {
    let (mut rest, mut name) = (pattern, b".".as_slice());
    while !rest.is_empty() {
        let (chunk, after) = chunk(rest);
        // Behind stars alone, anything matches.
        let glob = Glob::parse(chunk)?;
        match glob.items.as_slice() {
            [one] if one.step(name).is_some() => (rest, name) = (after, b"".as_slice()),
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Splits a pattern behind its leading stars, and before the next star outside of a class.
fn chunk(pattern: &[u8]) -> (&[u8], &[u8]) {
    let stars = pattern.iter().take_while(|&&byte| byte == b'*').count();
    let pattern = &pattern[stars..];
    let (mut in_class, mut escaped) = (false, false);
    let end = pattern.iter().position(|&byte| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match byte {
            b'\\' => escaped = true,
            b'[' => in_class = true,
            b']' => in_class = false,
            _ => {}
        }
        byte == b'*' && !in_class
    });
    pattern.split_at(end.unwrap_or(pattern.len()))
}

impl Item {
    /// How many bytes of the name this item takes, if it fits.
    fn step(&self, name: &[u8]) -> Option<usize> {
        let (c, width) = first_char(name)?;
        let fits = match self {
            Self::Star => return Some(0),
            Self::Byte(byte) => return (name[0] == *byte).then_some(1),
            Self::Any => c != '/',
            Self::Class { negated, ranges } => {
                ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated
            }
        };
        fits.then_some(width)
    }
}

fn parse_class(mut rest: &[u8]) -> Result<(Item, &[u8]), &'static str> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.first() == Some(&b']') {
            return Ok((Item::Class { negated, ranges }, &rest[1..]));
        }
        let (low, tail) = class_char(rest)?;
        rest = tail;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            (high, rest) = class_char(&rest[1..])?;
        }
        ranges.push((low, high));
    }
}

fn class_char(mut rest: &[u8]) -> Result<(char, &[u8]), &'static str> {
    match rest.first() {
        None => return Err(UNCLOSED),
        Some(b'-' | b']') => return Err("`-` and `]` in a class need a `\\`"),
        Some(b'\\') => rest = &rest[1..],
        Some(_) => {}
    }
    let (c, width) = first_char(rest).ok_or(UNCLOSED)?;
    if c == char::REPLACEMENT_CHARACTER && width == 1 {
        return Err("a class can only hold UTF-8");
    }
    if rest.len() == width {
        return Err(UNCLOSED);
    }
    Ok((c, &rest[width..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_as_go_does() {
        for (path, expected) in [
            ("", "."),
            (".", "."),
            ("./a", "a"),
            ("a//b/", "a/b"),
            ("a/./b/../c", "a/c"),
            ("../a", "../a"),
            ("a/../..", ".."),
            ("/../a", "/a"),
            ("/", "/"),
            ("//a", "/a"),
            ("!a/../b", "b"),
        ] {
            assert_eq!(String::from_utf8_lossy(&clean(path.as_bytes())), expected, "{path}");
        }
        assert_eq!(below_root(b"../../a/"), b"/a");
        assert_eq!(below_root(b"."), b"");
    }

    #[test]
    fn base_and_wildcards() {
        assert_eq!(base(b"/a/b"), b"b");
        assert_eq!(base(b"/"), b"/");
        assert_eq!(base(b""), b".");
        assert!(has_wildcards(b"a/*.go") && has_wildcards(b"[a]") && has_wildcards(b"a?"));
        assert!(!has_wildcards(b"a\\*b") && !has_wildcards(b"a"));
    }

    /// The published cases of Go's `path.Match`.
    #[test]
    fn matches_as_go_does() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "-", true),
            ("[x\\-]", "z", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("*", "", true),
            ("a", "", false),
        ] {
            let glob = Glob::parse(pattern.as_bytes()).unwrap();
            assert_eq!(glob.matches(name.as_bytes()), expected, "{pattern} {name}");
        }
        for bad in ["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a["] {
            assert!(Glob::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_are_seen_as_far_as_a_dot_gets() {
        for (pattern, seen) in [
            ("build[0-9-]", true),
            ("build*[0-9-]", false),
            ("*[", true),
            ("?[", true),
            (".*[", true),
            ("?*[", true),
            ("..*[", false),
            ("a*[", false),
            ("a[*[", true),
            ("**[", true),
            ("a\\*[", true),
            ("*", false),
        ] {
            assert_eq!(check_against_dot(pattern.as_bytes()).is_err(), seen, "{pattern}");
        }
    }

    #[test]
    fn matches_names_that_are_not_utf8() {
        let glob = Glob::parse(b"a?b*").unwrap();
        assert!(glob.matches(b"a\xffb\xfe"));
        assert!(Glob::parse(b"\xff").unwrap().matches(b"\xff"));
    }
}
