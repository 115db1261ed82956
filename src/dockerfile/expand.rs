//! Expands variables and removes quotes in one word, as BuildKit's shell lexer does.

use super::environment::Environment;
use super::error::Problem;
use super::pattern::Pattern;
use std::cell::Cell;
use std::iter::Peekable;
use std::str::Chars;

/// How deep substitutions may stand in each other; a person writes two.
const MAXIMUM_DEPTH: usize = 64;

/// How long the result of one expansion may be. A variable of more than 128 KiB reaches no command.
const MAXIMUM_LENGTH: usize = 1 << 20;

/// How much all expansions of one Dockerfile may give together.
const MAXIMUM_TOTAL: usize = 64 << 20;

/// How much all commands of one Dockerfile may see of variables together.
const MAXIMUM_SEEN: usize = 1 << 30;

/// Expands the words of one Dockerfile, within bounds: a few lines that double a variable could
/// otherwise fill any memory.
pub(crate) struct Expander {
    lexer: Lexer,
    given: Cell<usize>,
    seen: Cell<usize>,
}

impl Expander {
    pub(crate) fn new(escape: char) -> Self {
        Self { lexer: Lexer::new(escape), given: Cell::new(0), seen: Cell::new(0) }
    }

    /// Expands the words of an instruction.
    pub(crate) fn expand(&self, text: &str, variables: &Environment) -> Result<String, Problem> {
        self.with(self.lexer, text, variables)
    }

    /// Expands the body of a heredoc.
    pub(crate) fn heredoc(&self, text: &str, variables: &Environment) -> Result<String, Problem> {
        self.with(Lexer::for_heredoc_body(), text, variables)
    }

    /// Notes that so many bytes are kept.
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), Problem> {
        self.given.set(self.given.get().saturating_add(bytes));
        if self.given.get() > MAXIMUM_TOTAL { Err(Problem::TooMuch) } else { Ok(()) }
    }

    /// Notes that a command sees so many bytes of variables.
    pub(crate) fn charge_command(&self, bytes: usize) -> Result<(), Problem> {
        self.seen.set(self.seen.get().saturating_add(bytes));
        if self.seen.get() > MAXIMUM_SEEN { Err(Problem::TooManyVariables) } else { Ok(()) }
    }

    fn with(&self, lexer: Lexer, text: &str, variables: &Environment) -> Result<String, Problem> {
        let word = lexer.expand(text, variables)?;
        self.charge(word.len())?;
        Ok(word)
    }
}

/// The rules of one expansion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexer {
    escape: char,
    quotes: Quotes,
    keep_escapes: bool,
    keep_unset: bool,
}

/// What becomes of quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quotes {
    /// They quote, and go.
    Remove,
    /// They quote, and stay.
    Keep,
    /// They are characters like others.
    Text,
}

impl Lexer {
    /// Creates the lexer for the words of an instruction.
    pub(crate) fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Remove, keep_escapes: false, keep_unset: false }
    }

    /// Creates the lexer for the body of a heredoc.
    pub(crate) fn for_heredoc_body() -> Self {
        Self { quotes: Quotes::Text, ..Self::new('\\') }
    }

    /// Creates the lexer that finds words and leaves every character in place.
    pub(crate) fn verbatim() -> Self {
        Self { quotes: Quotes::Keep, keep_escapes: true, keep_unset: true, ..Self::new('\\') }
    }

    /// Creates the lexer for the name behind `<<`, with its quotes or without.
    pub(crate) fn for_heredoc_name(keep_quotes: bool) -> Self {
        let quotes = if keep_quotes { Quotes::Keep } else { Quotes::Remove };
        Self { quotes, keep_unset: true, ..Self::new('\\') }
    }

    /// Expands a text to one word.
    pub(crate) fn expand(self, text: &str, variables: &Environment) -> Result<String, Problem> {
        self.run(text, variables).map(|(word, _)| word)
    }

    /// Expands a text, and splits the result at spaces that were not quoted.
    pub(crate) fn split(self, text: &str, variables: &Environment) -> Result<Vec<String>, Problem> {
        self.run(text, variables).map(|(_, words)| words)
    }

    fn run(self, text: &str, variables: &Environment) -> Result<(String, Vec<String>), Problem> {
        let mut expansion = Expansion {
            lexer: self,
            keep_escapes: self.keep_escapes,
            input: text.chars().peekable(),
            variables,
            depth: 0,
        };
        expansion
            .until(None, self.keep_escapes)
            .map_err(|reason| Problem::Expansion { word: text.to_owned(), reason })
    }
}

struct Expansion<'a> {
    lexer: Lexer,
    keep_escapes: bool,
    input: Peekable<Chars<'a>>,
    variables: &'a Environment,
    depth: usize,
}

impl Expansion<'_> {
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
    ) -> Result<(String, Vec<String>), String> {
        self.depth += 1;
        if self.depth > MAXIMUM_DEPTH {
            return Err("substitutions are nested too deeply".to_owned());
        }
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let result = self.until_stop(stop);
        self.keep_escapes = outer;
        self.depth -= 1;
        result
    }

    fn until_stop(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), String> {
        let mut word = String::new();
        let mut words = Words::default();
        while let Some(character) = self.input.peek().copied() {
            check_length(&word)?;
            if stop == Some(character) {
                self.input.next();
                return Ok((word, words.finish()));
            }
            match character {
                '$' => {
                    let value = self.dollar()?;
                    words.push_text(&value);
                    word.push_str(&value);
                }
                '\'' | '"' if self.lexer.quotes != Quotes::Text => {
                    let value =
                        if character == '"' { self.double_quote()? } else { self.single_quote()? };
                    words.push_quoted(&value);
                    word.push_str(&value);
                }
                '<' => {
                    let value = self.possible_heredoc();
                    words.push_quoted(&value);
                    word.push_str(&value);
                }
                _ => {
                    self.input.next();
                    if character != self.lexer.escape {
                        words.push(character);
                        word.push(character);
                        continue;
                    }
                    if self.keep_escapes {
                        words.push_character_as_is(character);
                        word.push(character);
                    }
                    let Some(escaped) = self.input.next() else {
                        break;
                    };
                    words.push_character_as_is(escaped);
                    word.push(escaped);
                }
            }
        }
        check_length(&word)?;
        match stop {
            None => Ok((word, words.finish())),
            Some(_) => Err("unexpected end of statement".to_owned()),
        }
    }

    /// Takes the spaces behind `<<` into the word, so that `<< EOF` is one.
    fn possible_heredoc(&mut self) -> String {
        self.input.next();
        let mut text = "<".to_owned();
        if self.input.next_if_eq(&'<').is_some() {
            text.push('<');
            while let Some(space) = self.input.next_if(|character| character.is_whitespace()) {
                text.push(space);
            }
        }
        text
    }

    fn single_quote(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let quote = self.input.next();
        text.extend(quote.filter(|_| self.lexer.quotes == Quotes::Keep));
        loop {
            match self.input.next() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote"
                            .to_owned(),
                    );
                }
                Some('\'') => {
                    text.extend(quote.filter(|_| self.lexer.quotes == Quotes::Keep));
                    return Ok(text);
                }
                Some(character) => text.push(character),
            }
        }
    }

    fn double_quote(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let quote = self.input.next();
        text.extend(quote.filter(|_| self.lexer.quotes == Quotes::Keep));
        loop {
            check_length(&text)?;
            match self.input.peek().copied() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote"
                            .to_owned(),
                    );
                }
                Some('"') => {
                    self.input.next();
                    text.extend(quote.filter(|_| self.lexer.quotes == Quotes::Keep));
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(character) => {
                    self.input.next();
                    if character != self.lexer.escape {
                        text.push(character);
                        continue;
                    }
                    if self.keep_escapes {
                        text.push(character);
                    }
                    let escape = self.lexer.escape;
                    match self.input.peek().copied() {
                        // Reported as a missing quote by the next turn.
                        None => {}
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == escape => {
                            self.input.next();
                            text.push(escaped);
                        }
                        Some(_) => text.push(character),
                    }
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.input.next();
        if self.input.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.variables.get(&name) {
                Some(value) => value.to_owned(),
                None if self.lexer.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        match self.input.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        let Some(modifier) = self.input.next() else {
            return Err("syntax error: missing '}'".to_owned());
        };
        match modifier {
            '}' => Ok(match self.variables.get(&name) {
                Some(value) => value.to_owned(),
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => {
                let Some(modifier) = self.input.next() else {
                    return Err("syntax error: missing '}'".to_owned());
                };
                self.conditional(&name, modifier, true)
            }
            '+' | '-' | '?' | '#' | '%' => self.conditional(&name, modifier, false),
            '/' => self.replacement(&name),
            other => Err(format!("unsupported modifier ({other}) in substitution")),
        }
    }

    /// Handles `-`, `+`, `?`, `#` and `%`; with a colon before them, empty counts as unset.
    fn conditional(
        &mut self,
        name: &str,
        modifier: char,
        empty_is_unset: bool,
    ) -> Result<String, String> {
        let colon = if empty_is_unset { ":" } else { "" };
        let (word, _) = self
            .until(Some('}'), matches!(modifier, '#' | '%'))
            .map_err(|reason| self.at_end("syntax error: missing '}'", reason))?;
        let value = self.variables.get(name);
        if value.is_none() && self.lexer.keep_unset {
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let usable = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match modifier {
            '-' => Ok(usable.map_or(word, str::to_owned)),
            '+' => Ok(usable.map(|_| word).unwrap_or_default()),
            '?' => usable.map(str::to_owned).ok_or_else(|| {
                let message = match (word.is_empty(), value) {
                    (false, _) => word.as_str(),
                    (true, None) => "is not allowed to be unset",
                    (true, Some(_)) => "is not allowed to be empty",
                };
                format!("{name}: {message}")
            }),
            '#' | '%' => {
                let value = value.unwrap_or_default();
                let (text, longest) = match word.strip_prefix(modifier) {
                    Some(rest) => (rest, true),
                    None => (word.as_str(), false),
                };
                let pattern = compile(text)?;
                check_length(value)?;
                Ok(if modifier == '#' {
                    pattern.trim_start(value, longest)
                } else {
                    pattern.trim_end(value, longest)
                })
            }
            other => Err(format!("unsupported modifier ({colon}{other}) in substitution")),
        }
    }

    fn replacement(&mut self, name: &str) -> Result<String, String> {
        let all = self.input.next_if_eq(&'/').is_some();
        let (text, _) = self
            .until(Some('/'), true)
            .map_err(|reason| self.at_end("syntax error: missing '/' in ${}", reason))?;
        let (replacement, _) = self
            .until(Some('}'), true)
            .map_err(|reason| self.at_end("syntax error: missing '}'", reason))?;
        let value = self.variables.get(name);
        if value.is_none() && self.lexer.keep_unset {
            return Ok(format!("${{{name}/{text}/{replacement}}}"));
        }
        compile(&text)?
            .replace(value.unwrap_or_default(), &replacement, all, MAXIMUM_LENGTH)
            .ok_or_else(too_long)
    }

    fn at_end(&mut self, message: &str, reason: String) -> String {
        if self.input.peek().is_none() { message.to_owned() } else { reason }
    }

    /// Reads a variable's name: a word, a number, or one special character.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.input.peek() {
            Some(first) if first.is_ascii_digit() => {
                while let Some(digit) = self.input.next_if(char::is_ascii_digit) {
                    name.push(digit);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.input.next()),
            _ => {
                while let Some(character) =
                    self.input.next_if(|character| character.is_alphanumeric() || *character == '_')
                {
                    name.push(character);
                }
            }
        }
        name
    }
}

fn check_length(word: &str) -> Result<(), String> {
    if word.len() > MAXIMUM_LENGTH { Err(too_long()) } else { Ok(()) }
}

fn too_long() -> String {
    format!("it expands to more than {} KiB", MAXIMUM_LENGTH >> 10)
}

fn compile(text: &str) -> Result<Pattern, String> {
    Pattern::new(text)
        .map_err(|reason| format!("invalid pattern ({text}) in substitution: {reason}"))
}

/// Collects words: unquoted spaces end one.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    fn push(&mut self, character: char) {
        if !character.is_whitespace() {
            self.current.push(character);
        } else if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn push_text(&mut self, text: &str) {
        text.chars().for_each(|character| self.push(character));
    }

    fn push_character_as_is(&mut self, character: char) {
        self.current.push(character);
    }

    fn push_quoted(&mut self, text: &str) {
        self.current.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Environment {
        [("PWD", "/home"), ("SHELL", "bash"), ("EMPTY", ""), ("PATH", "a.b.c"), ("V", "a b")]
            .into_iter()
            .collect()
    }

    fn expand(text: &str) -> Result<String, String> {
        Lexer::new('\\').expand(text, &variables()).map_err(|problem| match problem {
            Problem::Expansion { reason, .. } => reason,
            other => other.to_string(),
        })
    }

    #[test]
    fn words_expand_as_in_the_builder() {
        for (text, expected) in [
            ("hello", "hello"),
            ("he'll'o", "hello"),
            ("he\\'llo", "he'llo"),
            ("he\\\\'llo'", "he\\llo"),
            ("abc\\tdef", "abctdef"),
            ("'abc\\tdef'", "abc\\tdef"),
            ("\"abc\\tdef\"", "abc\\tdef"),
            ("\"a\\\"b\\$\\\\\"", "a\"b$\\"),
            ("hello\\", "hello"),
            ("$", "$"),
            ("$PWD/x", "/home/x"),
            ("'$PWD'", "$PWD"),
            ("\"$PWD\"", "/home"),
            ("\\$PWD", "$PWD"),
            ("${PWD}x", "/homex"),
            ("$PWDx", ""),
            ("${UNSET}", ""),
            ("${UNSET:-d}", "d"),
            ("${UNSET-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${EMPTY:+d}", ""),
            ("${EMPTY+d}", "d"),
            ("${PWD:+d}", "d"),
            ("${UNSET+d}", ""),
            ("${UNSET:-$PWD}", "/home"),
            ("${UNSET:-${SHELL}}", "bash"),
            ("${UNSET:-'a }'}", "a }"),
            ("${PWD:?bad}", "/home"),
            ("${PATH#*.}", "b.c"),
            ("${PATH##*.}", "c"),
            ("${PATH%.*}", "a.b"),
            ("${PATH%%.*}", "a"),
            ("${PATH/./-}", "a-b.c"),
            ("${PATH//./-}", "a-b-c"),
            ("${PATH/./}", "ab.c"),
            ("${PWD/\\//x}", "xhome"),
            ("$1", ""),
            ("a<b <<c", "a<b <<c"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_say_what_was_expected() {
        for (text, expected) in [
            ("${", "syntax error: missing '}'"),
            ("${PWD", "syntax error: missing '}'"),
            ("${PWD:-x", "syntax error: missing '}'"),
            ("${PWD/a", "syntax error: missing '/' in ${}"),
            ("${}", "syntax error: bad substitution"),
            ("${{x}}", "syntax error: bad substitution"),
            ("${UNSET:?must be given}", "UNSET: must be given"),
            ("${UNSET?}", "UNSET: is not allowed to be unset"),
            ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
            ("${PWD^}", "unsupported modifier (^) in substitution"),
            ("${PWD:=x}", "unsupported modifier (:=) in substitution"),
            ("'x", "unexpected end of statement while looking for matching single-quote"),
            ("\"x", "unexpected end of statement while looking for matching double-quote"),
        ] {
            assert_eq!(expand(text).unwrap_err(), expected, "{text}");
        }
        assert_eq!(
            expand(&"${a:-".repeat(10_000)).unwrap_err(),
            "substitutions are nested too deeply"
        );
    }

    #[test]
    fn words_split_at_unquoted_spaces() {
        let split = |text| Lexer::new('\\').split(text, &variables()).unwrap();
        assert_eq!(split("a 'b c' $V \"$V\""), ["a", "b c", "a", "b", "a b"]);
        assert_eq!(
            Lexer::verbatim().split("cat << 'E F' $x", &variables()).unwrap(),
            ["cat", "<< 'E F'", "$x"]
        );
    }

    #[test]
    fn the_escape_can_be_a_backtick() {
        let lexer = Lexer::new('`');
        assert_eq!(lexer.expand("c:\\$SHELL `$x", &variables()).unwrap(), "c:\\bash $x");
    }
}
