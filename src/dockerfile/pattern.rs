//! Wildcards of `${name#pattern}` and its relatives: `*`, `?`, and backslash escapes.

/// The most steps of a search, which takes the value's length squared times the pattern's: a second.
const MOST_STEPS: usize = 1 << 29;

/// A compiled wildcard pattern.
pub(crate) struct Pattern(Vec<Token>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    AnyCharacter,
    AnyString,
}

impl Pattern {
    /// Compiles a pattern; the error is the reason.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut characters = pattern.chars().peekable();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                '*' => Token::AnyString,
                '?' => Token::AnyCharacter,
                '\\' => match characters.peek().copied() {
                    // The escape only protected the end of the substitution.
                    Some('}' | '/') => continue,
                    Some(escaped @ ('*' | '?' | '\\')) => {
                        characters.next();
                        Token::Literal(escaped)
                    }
                    Some(other) => return Err(format!("invalid escape '\\{other}'")),
                    None => return Err("invalid escape at the end".to_owned()),
                },
                literal => Token::Literal(literal),
            });
        }
        Ok(Self(tokens))
    }

    /// Removes the shortest or the longest match from the start of `value`.
    pub(crate) fn trim_start(&self, value: &str, longest: bool) -> String {
        let characters: Vec<char> = value.chars().collect();
        let start = self.match_at(&characters, 0, longest).unwrap_or(0);
        characters[start..].iter().collect()
    }

    /// Removes the shortest or the longest match from the end of `value`.
    pub(crate) fn trim_end(&self, value: &str, longest: bool) -> String {
        let reversed = Self(self.0.iter().rev().copied().collect());
        let characters: Vec<char> = value.chars().rev().collect();
        let start = reversed.match_at(&characters, 0, longest).unwrap_or(0);
        characters[start..].iter().rev().collect()
    }

    /// Replaces the first match, or all of them; `None` if the result is longer than `most`, or the
    /// search would take too long.
    pub(crate) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        most: usize,
    ) -> Option<String> {
        let characters: Vec<char> = value.chars().collect();
        let effort = characters.len().saturating_mul(characters.len());
        if effort.saturating_mul(self.0.len().max(1)) > MOST_STEPS {
            return None;
        }
        let mut result = String::new();
        let mut copied = 0;
        let mut position = 0;
        while position <= characters.len() {
            let Some((start, end)) = (position..=characters.len())
                .find_map(|start| self.match_at(&characters, start, true).map(|end| (start, end)))
            else {
                break;
            };
            result.extend(&characters[copied..start]);
            // An empty match right behind a match is none.
            if end > copied || start == 0 {
                result.push_str(replacement);
            }
            if result.len() > most {
                return None;
            }
            copied = end;
            position = end.max(position + 1);
            if !all {
                break;
            }
        }
        result.extend(&characters[copied..]);
        (result.len() <= most).then_some(result)
    }

    /// Returns where the preferred match that starts at `start` ends.
    ///
    /// Computed from the last token back, so the time is bounded by pattern times value.
    fn match_at(&self, value: &[char], start: usize, longest: bool) -> Option<usize> {
        let value = &value[start..];
        let mut ends: Vec<Option<usize>> = (0..=value.len()).map(Some).collect();
        for token in self.0.iter().rev() {
            let mut previous: Vec<Option<usize>> = vec![None; value.len() + 1];
            for position in (0..=value.len()).rev() {
                let here = value.get(position).copied().filter(|character| *character != '\n');
                previous[position] = match token {
                    Token::Literal(literal) => {
                        if value.get(position) == Some(literal) {
                            ends[position + 1]
                        } else {
                            None
                        }
                    }
                    Token::AnyCharacter => here.and_then(|_| ends[position + 1]),
                    Token::AnyString => {
                        let further = here.and_then(|_| previous[position + 1]);
                        if longest {
                            further.or(ends[position])
                        } else {
                            ends[position].or(further)
                        }
                    }
                };
            }
            ends = previous;
        }
        ends[0].map(|end| start + end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    #[test]
    fn trims() {
        assert_eq!(pattern("*.").trim_start("a.b.c", false), "b.c");
        assert_eq!(pattern("*.").trim_start("a.b.c", true), "c");
        assert_eq!(pattern(".*").trim_end("a.b.c", false), "a.b");
        assert_eq!(pattern(".*").trim_end("a.b.c", true), "a");
        assert_eq!(pattern("?b").trim_start("abc", false), "c");
        assert_eq!(pattern("x").trim_start("abc", false), "abc");
        assert_eq!(pattern("a\\*").trim_start("a*c", false), "c");
    }

    #[test]
    fn replaces() {
        let replace = |text, value, by, all| pattern(text).replace(value, by, all, 8);
        assert_eq!(replace("a", "banana", "o", false).as_deref(), Some("bonana"));
        assert_eq!(replace("a", "banana", "o", true).as_deref(), Some("bonono"));
        assert_eq!(replace("*", "abc", "x", true).as_deref(), Some("x"));
        assert_eq!(replace("", "ab", "-", true).as_deref(), Some("-a-b-"));
        assert_eq!(replace("a", "banana", "ooo", true), None);
        assert_eq!(pattern("a").replace(&"b".repeat(1 << 20), "", true, usize::MAX), None);
    }

    #[test]
    fn many_stars_stay_cheap() {
        let value = "a".repeat(2000);
        assert_eq!(pattern(&"*a".repeat(50)).trim_start(&value, true), "");
        assert_eq!(pattern(&format!("{}b", "*a".repeat(50))).trim_start(&value, true), value);
    }
}
