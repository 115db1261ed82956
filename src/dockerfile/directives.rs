//! Parser directives: `# syntax=`, `# escape=`, and `# check=` at the top of a Dockerfile.

use super::error::Problem;
use std::ops::Range;

/// The parser directives of one Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// The frontend image that the Dockerfile asks for.
    pub syntax: Option<String>,
    /// The character that escapes, and that continues a line: a backslash or a backtick.
    pub escape: char,
    /// Where in the file the line with options for the builder's own checks stands.
    pub(crate) check: Option<Range<usize>>,
}

/// Reads directives line by line until the first line that is none.
pub(crate) struct DirectiveReader {
    directives: Directives,
    escape_seen: bool,
    done: bool,
}

impl DirectiveReader {
    pub(crate) fn new() -> Self {
        Self {
            directives: Directives { syntax: None, escape: '\\', check: None },
            escape_seen: false,
            done: false,
        }
    }

    /// Takes one line of the file, without its line end, and where in the file it stands.
    pub(crate) fn read(&mut self, line: &str, place: Range<usize>) -> Result<(), Problem> {
        if self.done {
            return Ok(());
        }
        let Some((name, value)) = directive(line) else {
            self.done = true;
            return Ok(());
        };
        let repeated = match name.as_str() {
            "syntax" => self.directives.syntax.replace(value.to_owned()).is_some(),
            "check" => self.directives.check.replace(place).is_some(),
            "escape" => {
                let repeated = std::mem::replace(&mut self.escape_seen, true);
                if !repeated {
                    self.directives.escape = match value {
                        "\\" => '\\',
                        "`" => '`',
                        _ => {
                            return Err(Problem::InvalidEscape { value: value.to_owned() });
                        }
                    };
                }
                repeated
            }
            _ => {
                self.done = true;
                false
            }
        };
        if repeated { Err(Problem::DuplicateDirective { name }) } else { Ok(()) }
    }

    pub(crate) fn escape(&self) -> char {
        self.directives.escape
    }

    pub(crate) fn finish(self) -> Directives {
        self.directives
    }
}

/// Splits `# name = value`; the name is lower-cased.
fn directive(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let mut characters = name.chars();
    let named = characters.next()?.is_ascii_alphabetic()
        && characters.all(|character| character.is_ascii_alphanumeric());
    (named && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Directives, Problem> {
        let mut reader = DirectiveReader::new();
        for line in text.lines() {
            reader.read(line, 0..line.len())?;
        }
        Ok(reader.finish())
    }

    #[test]
    fn directives_end_at_the_first_other_line() {
        let directives =
            read("#syntax=docker/dockerfile:1\n# ESCAPE = `\n# check=skip=all").unwrap();
        assert_eq!(directives.syntax.as_deref(), Some("docker/dockerfile:1"));
        assert_eq!(directives.escape, '`');
        assert_eq!(directives.check, Some(0..16));
        for text in ["# a comment\n# escape=`", "\n# escape=`", "# other=1\n# escape=`"] {
            assert_eq!(read(text).unwrap().escape, '\\', "{text:?}");
        }
    }

    #[test]
    fn wrong_directives_are_refused() {
        assert_eq!(
            read("# escape=x").unwrap_err().to_string(),
            "invalid escape token 'x' does not match ` or \\"
        );
        assert_eq!(
            read("# syntax=a\n# syntax=b").unwrap_err().to_string(),
            "only one syntax parser directive can be used"
        );
    }
}
