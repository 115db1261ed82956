//! A small regular expression machine for the expressions that ignore patterns turn into.
//!
//! Moby's matcher translates a pattern into a Go regular expression, so a few odd patterns (`[*]`,
//! `\d`, `a^*`, `[[:digit:]]`) mean what that expression means. This machine reads the same
//! expression. It runs in time linear in the path, and can say whether any path that starts with a
//! given prefix could still match, which a regular expression crate can't: that is what keeps a walk
//! out of an ignored directory. Not supported, and refused: `\p`, `\Q`, and octal or hexadecimal
//! escapes.

use super::go_path::chars;

/// The most instructions of a program, which bounds the stack as well.
const MAXIMUM_SIZE: usize = 8_000;

/// The most repetitions that Go takes.
const MAXIMUM_COUNT: usize = 1_000;

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
}

/// Jump targets are relative to the instruction, so that fragments can be joined and repeated.
#[derive(Clone, Debug)]
enum Instruction {
    One(Set),
    Look(Look),
    Split(isize, isize),
    Match,
}

#[derive(Debug, Clone, Copy)]
enum Look {
    Start,
    End,
    WordBoundary(bool),
}

#[derive(Clone, Debug)]
struct Set {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Set {
    fn char(c: char) -> Self {
        Self { negated: false, ranges: vec![(c, c)] }
    }

    fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|&(low, high)| low <= c && c <= high) != self.negated
    }
}

/// What surrounds a position in the path.
#[derive(Clone, Copy)]
struct Around {
    before: Option<char>,
    after: After,
}

#[derive(Clone, Copy)]
enum After {
    Char(char),
    End,
    Unknown,
}

impl Look {
    fn holds(self, around: Around) -> bool {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match (self, around.after) {
            (Self::Start, _) => around.before.is_none(),
            (Self::End, After::End) | (Self::End | Self::WordBoundary(_), After::Unknown) => true,
            (Self::End, After::Char(_)) => false,
            (Self::WordBoundary(wanted), after) => {
                let after = matches!(after, After::Char(c) if is_word(c));
                (around.before.is_some_and(is_word) != after) == wanted
            }
        }
    }
}

impl Program {
    /// Compiles an expression without its leading `^` and its trailing `$`.
    pub(super) fn compile(expression: &str) -> Result<Self, &'static str> {
        let expression: Vec<char> = expression.chars().collect();
        let mut parser = Parser { rest: &expression };
        let mut branches = Vec::new();
        loop {
            branches.push(parser.sequence(branches.is_empty())?);
            if !parser.eat('|') {
                break;
            }
        }
        if !parser.rest.is_empty() {
            return Err("`)` without `(`");
        }
        let mut instructions = branches.pop().unwrap_or_default();
        if !branches.is_empty() {
            // The `^` is the first branch's alone, and the `$` the last one's.
            instructions.push(Instruction::Look(Look::End));
            branches.first_mut().into_iter().for_each(|first| {
                first.insert(0, Instruction::Look(Look::Start));
            });
            for branch in branches.into_iter().rev() {
                instructions = either(branch, instructions);
            }
            instructions.splice(0..0, anything());
            instructions.extend(anything());
        }
        instructions.push(Instruction::Match);
        if instructions.len() > MAXIMUM_SIZE {
            return Err("the pattern is too large");
        }
        Ok(Self { instructions })
    }

    /// How many instructions there are.
    pub(super) fn size(&self) -> usize {
        self.instructions.len()
    }

    /// Whether the whole path matches.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        self.run(path, After::End).contains(self.instructions.len() - 1)
    }

    /// Whether some longer path that starts with this prefix might match.
    pub(super) fn may_match_after(&self, prefix: &[u8]) -> bool {
        let last = self.instructions.len() - 1;
        self.run(prefix, After::Unknown).list.iter().any(|&at| at != last)
    }

    fn run(&self, path: &[u8], end: After) -> Threads {
        let mut current = Threads::new(self.instructions.len());
        let mut next = Threads::new(self.instructions.len());
        let mut input = chars(path).peekable();
        let after = |c: Option<&char>| c.map_or(end, |&c| After::Char(c));
        self.enter(&mut current, 0, Around { before: None, after: after(input.peek()) });
        while let Some(c) = input.next() {
            if current.list.is_empty() {
                break;
            }
            let around = Around { before: Some(c), after: after(input.peek()) };
            next.clear();
            for &at in &current.list {
                if let Instruction::One(set) = &self.instructions[at]
                    && set.contains(c)
                {
                    self.enter(&mut next, at + 1, around);
                }
            }
            std::mem::swap(&mut current, &mut next);
        }
        current
    }

    fn enter(&self, threads: &mut Threads, at: usize, around: Around) {
        if std::mem::replace(&mut threads.seen[at], true) {
            return;
        }
        match &self.instructions[at] {
            Instruction::One(_) | Instruction::Match => threads.list.push(at),
            Instruction::Look(look) if look.holds(around) => self.enter(threads, at + 1, around),
            Instruction::Look(_) => {}
            Instruction::Split(first, second) => {
                self.enter(threads, at.strict_add_signed(*first), around);
                self.enter(threads, at.strict_add_signed(*second), around);
            }
        }
    }
}

struct Threads {
    list: Vec<usize>,
    seen: Vec<bool>,
}

impl Threads {
    fn new(instructions: usize) -> Self {
        Self { list: Vec::new(), seen: vec![false; instructions] }
    }

    fn clear(&mut self) {
        self.list.clear();
        self.seen.fill(false);
    }

    fn contains(&self, at: usize) -> bool {
        self.list.contains(&at)
    }
}

/// One of two fragments.
fn either(mut one: Vec<Instruction>, other: Vec<Instruction>) -> Vec<Instruction> {
    let mut code = vec![Instruction::Split(1, one.len().cast_signed() + 2)];
    code.append(&mut one);
    let behind = other.len().cast_signed() + 1;
    code.push(Instruction::Split(behind, behind));
    code.extend(other);
    code
}

/// Any characters, as many as there are.
fn anything() -> [Instruction; 3] {
    let any = Set { negated: true, ranges: Vec::new() };
    [Instruction::Split(1, 3), Instruction::One(any), Instruction::Split(-2, -2)]
}

/// A fragment, from `least` times on, up to `most` times if there is an end.
fn repeated(
    atom: &[Instruction],
    least: usize,
    most: Option<usize>,
) -> Result<Vec<Instruction>, &'static str> {
    if atom.len().saturating_mul(most.unwrap_or(least) + 1) > MAXIMUM_SIZE {
        return Err("the pattern is too large");
    }
    let length = atom.len().cast_signed();
    let mut code: Vec<Instruction> = std::iter::repeat_n(atom, least).flatten().cloned().collect();
    if let Some(most) = most {
        for _ in least..most {
            code.push(Instruction::Split(1, length + 1));
            code.extend_from_slice(atom);
        }
    } else {
        code.push(Instruction::Split(1, length + 2));
        code.extend_from_slice(atom);
        code.push(Instruction::Split(-length - 1, -length - 1));
    }
    Ok(code)
}

struct Parser<'a> {
    rest: &'a [char],
}

impl Parser<'_> {
    fn next(&mut self) -> Option<char> {
        let (&c, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.rest.first() == Some(&wanted);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    /// Reads a sequence; at the very start, there is a `^` before it that can be repeated.
    fn sequence(&mut self, at_start: bool) -> Result<Vec<Instruction>, &'static str> {
        let mut code = Vec::new();
        let mut atom = if at_start { Some(Vec::new()) } else { None };
        loop {
            if let Some((least, most)) = self.repetition()? {
                let atom = atom.take().ok_or("nothing stands before the `{` that repeats it")?;
                code.extend(repeated(&atom, least, most)?);
            } else {
                code.extend(atom.take().unwrap_or_default());
                if self.rest.first().is_none_or(|c| matches!(c, ')' | '|')) {
                    return Ok(code);
                }
                atom = Some(self.atom()?);
            }
            if code.len() > MAXIMUM_SIZE {
                return Err("the pattern is too large");
            }
        }
    }

    /// Reads `*`, `?`, `{n}`, `{n,}` or `{n,m}`. Another `{` is a character.
    fn repetition(&mut self) -> Result<Option<(usize, Option<usize>)>, &'static str> {
        if self.eat('*') {
            return Ok(Some((0, None)));
        }
        if self.eat('?') {
            return Ok(Some((0, Some(1))));
        }
        let mut ahead = Parser { rest: self.rest };
        if !ahead.eat('{') {
            return Ok(None);
        }
        let Some(least) = ahead.number() else { return Ok(None) };
        let most = if ahead.eat(',') {
            match ahead.number() {
                None if ahead.rest.first() == Some(&'}') => None,
                None => return Ok(None),
                number => number,
            }
        } else {
            Some(least)
        };
        if !ahead.eat('}') {
            return Ok(None);
        }
        self.rest = ahead.rest;
        // A `?` behind it says which match is preferred.
        self.eat('?');
        if least > MAXIMUM_COUNT || most.is_some_and(|most| most > MAXIMUM_COUNT || most < least) {
            return Err("the number in `{}` is too large");
        }
        Ok(Some((least, most)))
    }

    /// Reads a number without leading zeros.
    fn number(&mut self) -> Option<usize> {
        let digits = self.rest.iter().take_while(|c| c.is_ascii_digit()).count();
        if digits == 0 || (digits > 1 && self.rest[0] == '0') {
            return None;
        }
        let text: String = self.rest[..digits].iter().collect();
        self.rest = &self.rest[digits..];
        Some(text.parse().unwrap_or(usize::MAX))
    }

    fn atom(&mut self) -> Result<Vec<Instruction>, &'static str> {
        let one = |set| Ok(vec![Instruction::One(set)]);
        match self.next() {
            Some('(') => {
                let inner = self.sequence(false)?;
                if self.eat(')') { Ok(inner) } else { Err("`(` without `)`") }
            }
            Some('[') => one(self.class()?),
            Some('.') => one(Set { negated: true, ranges: vec![('\n', '\n')] }),
            Some('^') => Ok(vec![Instruction::Look(Look::Start)]),
            Some('\\') => {
                let look = match self.rest.first() {
                    Some('A') => Look::Start,
                    Some('z') => Look::End,
                    Some('b') => Look::WordBoundary(true),
                    Some('B') => Look::WordBoundary(false),
                    _ => return one(self.escape()?),
                };
                self.next();
                Ok(vec![Instruction::Look(look)])
            }
            Some(c) => one(Set::char(c)),
            None => Ok(Vec::new()),
        }
    }

    fn escape(&mut self) -> Result<Set, &'static str> {
        let c = self.next().ok_or("nothing follows the `\\`")?;
        let named = |ranges: &[(char, char)], negated| Ok(Set { negated, ranges: ranges.to_vec() });
        match c {
            'd' | 'D' => named(&[('0', '9')], c == 'D'),
            's' | 'S' => named(&[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')], c == 'S'),
            'w' | 'W' => named(&[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')], c == 'W'),
            'a' => Ok(Set::char('\x07')),
            'f' => Ok(Set::char('\x0c')),
            'n' => Ok(Set::char('\n')),
            'r' => Ok(Set::char('\r')),
            't' => Ok(Set::char('\t')),
            'v' => Ok(Set::char('\x0b')),
            _ if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(Set::char(c)),
            _ => Err("a `\\` before this character has no meaning"),
        }
    }

    fn class(&mut self) -> Result<Set, &'static str> {
        let unclosed = "the class is not closed with `]`";
        let negated = self.eat('^');
        let mut ranges = Vec::new();
        let mut first = true;
        loop {
            if !std::mem::take(&mut first) && self.eat(']') {
                return Ok(Set { negated, ranges });
            }
            if self.rest.starts_with(&['[', ':'])
                && let Some(end) = self.rest.windows(2).skip(2).position(|pair| pair == [':', ']'])
            {
                let name: String = self.rest[2..end + 2].iter().collect();
                self.rest = &self.rest[end + 4..];
                ranges.extend(posix_class(&name)?);
                continue;
            }
            let low = match self.next().ok_or(unclosed)? {
                '\\' => {
                    let set = self.escape()?;
                    match set.ranges.as_slice() {
                        [(c, same)] if c == same && !set.negated => *c,
                        _ if set.negated => {
                            ranges.extend(complement(&set.ranges));
                            continue;
                        }
                        several => {
                            ranges.extend(several);
                            continue;
                        }
                    }
                }
                c => c,
            };
            let mut high = low;
            if self.rest.len() >= 2 && self.rest[0] == '-' && self.rest[1] != ']' {
                self.next();
                high = match self.next().ok_or(unclosed)? {
                    '\\' => match self.escape()?.ranges.as_slice() {
                        [(c, same)] if c == same => *c,
                        _ => return Err("a range ends in a class"),
                    },
                    c => c,
                };
            }
            if high < low {
                return Err("the range in the class is in the wrong order");
            }
            ranges.push((low, high));
        }
    }
}

fn complement(ranges: &[(char, char)]) -> Vec<(char, char)> {
    let mut from = '\0';
    let mut rest = Vec::new();
    for &(low, high) in ranges {
        if let Some(before) = char::from_u32(u32::from(low).wrapping_sub(1)) {
            rest.push((from, before));
        }
        from = char::from_u32(u32::from(high) + 1).unwrap_or(char::MAX);
    }
    rest.push((from, char::MAX));
    rest
}

/// Go's `[:name:]` classes: always ASCII.
fn posix_class(name: &str) -> Result<Vec<(char, char)>, &'static str> {
    let (negated, name) = name.strip_prefix('^').map_or((false, name), |name| (true, name));
    let ranges: &[(char, char)] = match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return Err("no such `[:name:]` class"),
    };
    Ok(if negated { complement(ranges) } else { ranges.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_go_expressions() {
        for (expression, path, expected) in [
            ("a[^/]*", "abc", true),
            ("a[^/]*", "a/c", false),
            ("(.*/)?[^/]*\\.txt", "a/b/c.txt", true),
            ("(.*/)?[^/]*\\.txt", "c.txt", true),
            ("(.*/)?x", "yx", false),
            ("(.*/)?.*", "", true),
            (".*", "a\nb", false),
            ("[a-c^]x", "^x", true),
            ("[^a-c]x", "/x", true),
            ("[[^/]*]", "[[^]", true),
            ("[[:digit:]]", "7", true),
            ("[[:digit:]a-c]", "b", true),
            ("[[:^digit:]]", "7", false),
            ("[]a]", "]", true),
            ("[\\]a]", "]", true),
            ("[\\D]", "7", false),
            ("[\\Dx7]", "7", true),
            ("\\d\\w", "7_", true),
            ("a\\b-", "a-", true),
            ("a\\bb", "ab", false),
            ("a^b", "ab", false),
            ("^a", "a", true),
            ("\u{fffd}", "\u{fffd}", true),
        ] {
            let program = Program::compile(expression).unwrap();
            assert_eq!(program.matches(path.as_bytes()), expected, "{expression} {path:?}");
        }
        for bad in ["[Local-Only]", "[a", "\\y", "\\", "\\pL", "[[:nope:]]", "(a", "a)"] {
            assert!(Program::compile(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn knows_when_nothing_below_can_match() {
        let program = Program::compile("src/(.*/)?[^/]*\\.js").unwrap();
        assert!(program.may_match_after(b"src/"));
        assert!(program.may_match_after(b"src/a/b/"));
        assert!(!program.may_match_after(b"node_modules/"));
        assert!(!Program::compile("a[^/]*").unwrap().may_match_after(b"ab/"));
        assert!(Program::compile("(.*/)?x").unwrap().may_match_after(b"node_modules/"));
    }
}
