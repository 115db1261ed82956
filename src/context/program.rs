//! The expressions that ignore patterns turn into.
//!
//! Moby's matcher translates a pattern into a Go regular expression, so a few odd patterns (`[*]`,
//! `\d`, `a^*`, `[[:digit:]]`) mean what that expression means. Here Go's grammar is read, and
//! `regex-automata` does the matching: linear in the path, and by its dead states it says whether a
//! path that starts with a given prefix could still match. That is what keeps a walk out of an ignored
//! directory. Not supported, and refused: `\p`, `\Q`, and octal or hexadecimal escapes.

use std::borrow::Cow;
use std::error::Error;
use std::panic::{RefUnwindSafe, UnwindSafe};

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::alphabet::Unit;
use regex_automata::util::pool::Pool;
use regex_automata::{Anchored, Input};
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Dot, Hir, Look, Repetition};

use super::go_path::chars;

/// The most bytes that a pattern's automaton takes before it is run.
const MAXIMUM_SIZE: usize = 1 << 20;

/// The bytes of states that it keeps while it runs, unless one path alone takes more.
const CACHE: usize = 64 << 10;

/// The most repetitions that Go takes.
const MAXIMUM_COUNT: u32 = 1_000;

const TOO_LARGE: &str = "the pattern is too large";

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Program {
    dfa: DFA,
    /// What searches work with; walks are made by several threads.
    caches: Pool<Cache, NewCache>,
}

type NewCache = Box<dyn Fn() -> Cache + Send + Sync + UnwindSafe + RefUnwindSafe>;

impl Program {
    /// Compiles an expression without its leading `^` and its trailing `$`.
    pub(super) fn compile(expression: &str) -> Result<Self, &'static str> {
        let nfa = thompson::Compiler::new()
            .configure(thompson::Config::new().nfa_size_limit(Some(MAXIMUM_SIZE)))
            .build_from_hir(&whole(expression)?)
            .map_err(|_| TOO_LARGE)?;
        let dfa = DFA::builder()
            .configure(DFA::config().skip_cache_capacity_check(true).cache_capacity(CACHE))
            .build_from_nfa(nfa)
            .map_err(|_| TOO_LARGE)?;
        let of = dfa.clone();
        Ok(Self { dfa, caches: Pool::new(Box::new(move || of.create_cache())) })
    }

    /// How many bytes it takes before it is run.
    pub(super) fn size(&self) -> usize {
        self.dfa.get_nfa().memory_usage()
    }

    /// Whether the whole path matches.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        let text = text(path);
        let input = Input::new(text.as_ref()).anchored(Anchored::Yes);
        // The automaton never gives up: nothing of its configuration makes it.
        self.dfa.try_search_fwd(&mut self.caches.get(), &input).is_ok_and(|found| found.is_some())
    }

    /// Whether some longer path that starts with this prefix might match.
    pub(super) fn may_match_after(&self, prefix: &[u8]) -> bool {
        self.lives_after(prefix, &mut self.caches.get()).unwrap_or(true)
    }

    fn lives_after(&self, prefix: &[u8], cache: &mut Cache) -> Result<bool, Box<dyn Error>> {
        let start = Input::new("").anchored(Anchored::Yes);
        let mut state = self.dfa.start_state_forward(cache, &start)?;
        for byte in text(prefix).bytes() {
            state = self.dfa.next_state(cache, state, byte)?;
            if state.is_dead() {
                return Ok(false);
            }
        }
        let next = self.dfa.byte_classes().representatives(0..=u8::MAX).filter_map(Unit::as_u8);
        for byte in next {
            if !self.dfa.next_state(cache, state, byte)?.is_dead() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A path as Go reads it.
fn text(path: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(path).map_or_else(|_| chars(path).collect(), Cow::Borrowed)
}

/// Reads an expression, and puts the `^` and the `$` where they belong.
fn whole(expression: &str) -> Result<Hir, &'static str> {
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
    let last = branches.pop().unwrap_or_else(Hir::empty);
    let last = Hir::concat(vec![last, Hir::look(Look::End)]);
    if branches.is_empty() {
        return Ok(last);
    }
    // The `^` is the first branch's alone, and the `$` the last one's.
    let anything = repeated(Hir::dot(Dot::AnyChar), 0, None);
    let first = Hir::concat(vec![Hir::look(Look::Start), branches.remove(0)]);
    let middle = branches.into_iter().chain([last]);
    let any = Hir::alternation([first].into_iter().chain(middle).collect());
    Ok(Hir::concat(vec![anything.clone(), any, anything, Hir::look(Look::End)]))
}

/// From `min` times on, up to `max` times if there is an end.
fn repeated(atom: Hir, min: u32, max: Option<u32>) -> Hir {
    Hir::repetition(Repetition { min, max, greedy: true, sub: Box::new(atom) })
}

fn one(c: char) -> ClassUnicode {
    among([(c, c)])
}

fn among(ranges: impl IntoIterator<Item = (char, char)>) -> ClassUnicode {
    ClassUnicode::new(ranges.into_iter().map(|(low, high)| ClassUnicodeRange::new(low, high)))
}

fn unless(negated: bool, mut class: ClassUnicode) -> ClassUnicode {
    if negated {
        class.negate();
    }
    class
}

fn hir(class: ClassUnicode) -> Hir {
    Hir::class(Class::Unicode(class))
}

/// The one character of a class.
fn only(class: &ClassUnicode) -> Option<char> {
    match class.ranges() {
        [range] if range.start() == range.end() => Some(range.start()),
        _ => None,
    }
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
    fn sequence(&mut self, at_start: bool) -> Result<Hir, &'static str> {
        let mut parts = Vec::new();
        let mut atom = at_start.then(Hir::empty);
        loop {
            if let Some((least, most)) = self.repetition()? {
                let atom = atom.take().ok_or("nothing stands before the `{` that repeats it")?;
                parts.push(repeated(atom, least, most));
            } else {
                parts.extend(atom.take());
                if self.rest.first().is_none_or(|c| matches!(c, ')' | '|')) {
                    return Ok(Hir::concat(parts));
                }
                atom = Some(self.atom()?);
            }
        }
    }

    /// Reads `*`, `?`, `{n}`, `{n,}` or `{n,m}`. Another `{` is a character.
    fn repetition(&mut self) -> Result<Option<(u32, Option<u32>)>, &'static str> {
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
    fn number(&mut self) -> Option<u32> {
        let digits = self.rest.iter().take_while(|c| c.is_ascii_digit()).count();
        if digits == 0 || (digits > 1 && self.rest[0] == '0') {
            return None;
        }
        let text: String = self.rest[..digits].iter().collect();
        self.rest = &self.rest[digits..];
        Some(text.parse().unwrap_or(u32::MAX))
    }

    fn atom(&mut self) -> Result<Hir, &'static str> {
        Ok(match self.next() {
            Some('(') => {
                let inner = self.sequence(false)?;
                if !self.eat(')') {
                    return Err("`(` without `)`");
                }
                inner
            }
            Some('[') => hir(self.class()?),
            Some('.') => Hir::dot(Dot::AnyCharExceptLF),
            Some('^') => Hir::look(Look::Start),
            Some('\\') => {
                let look = match self.rest.first() {
                    Some('A') => Look::Start,
                    Some('z') => Look::End,
                    Some('b') => Look::WordAscii,
                    Some('B') => Look::WordAsciiNegate,
                    _ => return self.escape().map(hir),
                };
                self.next();
                Hir::look(look)
            }
            Some(c) => hir(one(c)),
            None => Hir::empty(),
        })
    }

    fn escape(&mut self) -> Result<ClassUnicode, &'static str> {
        let c = self.next().ok_or("nothing follows the `\\`")?;
        Ok(match c {
            'd' | 'D' => unless(c == 'D', named("digit")?),
            // Without the vertical tab.
            's' | 'S' => unless(c == 'S', among([('\t', '\n'), ('\x0c', '\r'), (' ', ' ')])),
            'w' | 'W' => unless(c == 'W', named("word")?),
            'a' => one('\x07'),
            'f' => one('\x0c'),
            'n' => one('\n'),
            'r' => one('\r'),
            't' => one('\t'),
            'v' => one('\x0b'),
            _ if c.is_ascii() && !c.is_ascii_alphanumeric() => one(c),
            _ => return Err("a `\\` before this character has no meaning"),
        })
    }

    fn class(&mut self) -> Result<ClassUnicode, &'static str> {
        let unclosed = "the class is not closed with `]`";
        let negated = self.eat('^');
        let mut class = ClassUnicode::empty();
        let mut first = true;
        loop {
            if !std::mem::take(&mut first) && self.eat(']') {
                return Ok(unless(negated, class));
            }
            if self.rest.starts_with(&['[', ':'])
                && let Some(end) = self.rest.windows(2).skip(2).position(|pair| pair == [':', ']'])
            {
                let name: String = self.rest[2..end + 2].iter().collect();
                self.rest = &self.rest[end + 4..];
                class.union(&match name.strip_prefix('^') {
                    Some(name) => unless(true, named(name)?),
                    None => named(&name)?,
                });
                continue;
            }
            let low = match self.next().ok_or(unclosed)? {
                '\\' => {
                    let several = self.escape()?;
                    let Some(c) = only(&several) else {
                        class.union(&several);
                        continue;
                    };
                    c
                }
                c => c,
            };
            let mut high = low;
            if self.rest.len() >= 2 && self.rest[0] == '-' && self.rest[1] != ']' {
                self.next();
                high = match self.next().ok_or(unclosed)? {
                    '\\' => only(&self.escape()?).ok_or("a range ends in a class")?,
                    c => c,
                };
            }
            if high < low {
                return Err("the range in the class is in the wrong order");
            }
            class.push(ClassUnicodeRange::new(low, high));
        }
    }
}

/// Go's `[:name:]` classes: always ASCII.
fn named(name: &str) -> Result<ClassUnicode, &'static str> {
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
    Ok(among(ranges.iter().copied()))
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
