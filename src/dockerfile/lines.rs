//! Joins the lines of a file to logical lines: continuations, comments inside them, heredocs.

use super::directives::{DirectiveReader, Directives};
use super::error::Problem;
use super::heredoc::Heredoc;
use super::words::{Command, json_list, split_command};
use std::borrow::Cow;

/// The longest line that the builder's scanner takes, line end included.
const MAXIMUM_LINE: usize = 65_536;

/// The first and the last line of an instruction, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRange {
    /// The line on which the instruction starts.
    pub first: usize,
    /// The line on which it, or its last heredoc, ends.
    pub last: usize,
}

/// One instruction as text.
#[derive(Clone, Debug)]
pub(crate) struct LogicalLine {
    pub(crate) text: String,
    pub(crate) command: Command,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) lines: LineRange,
    /// Where in the file the last word of the instruction ends, heredocs not counted.
    pub(crate) end_of_text: usize,
}

/// Reads a whole file; an error comes with its line.
pub(crate) fn read(source: &[u8]) -> Result<(Directives, Vec<LogicalLine>), (usize, Problem)> {
    Reader { source, position: 0, line: 0, directives: DirectiveReader::new() }.read()
}

struct Reader<'a> {
    source: &'a [u8],
    position: usize,
    line: usize,
    directives: DirectiveReader,
}

/// One line of the file with its line end, and where it starts.
struct PhysicalLine<'a> {
    bytes: &'a [u8],
    start: usize,
}

impl<'a> Reader<'a> {
    fn read(mut self) -> Result<(Directives, Vec<LogicalLine>), (usize, Problem)> {
        let mut lines = Vec::new();
        loop {
            let result = self.logical_line();
            match result.map_err(|problem| (self.line.max(1), problem))? {
                Some(Ok(line)) => lines.push(line),
                Some(Err(at_line)) => return Err(at_line),
                None => return Ok((self.directives.finish(), lines)),
            }
        }
    }

    /// Reads one logical line. An inner error belongs to the line where the instruction starts.
    #[expect(clippy::type_complexity, reason = "private, and read in one place")]
    fn logical_line(&mut self) -> Result<Option<Result<LogicalLine, (usize, Problem)>>, Problem> {
        let mut text = String::new();
        let mut end_of_text = 0;
        let mut first = 0;
        while let Some(physical) = self.next_line()? {
            let starts = first == 0;
            let line = without_line_end(physical.bytes);
            let decoded = String::from_utf8_lossy(line);
            let place = physical.start..physical.start + line.len();
            self.directives.read(if starts { decoded.trim_start() } else { &decoded }, place)?;
            if is_comment(&decoded) {
                continue;
            }
            let (fragment, continues) = without_continuation(line, self.directives.escape());
            if starts {
                if !continues && trim_end(fragment).is_empty() {
                    continue;
                }
                first = self.line;
            } else if decoded.trim().is_empty() {
                continue;
            }
            let decoded = String::from_utf8_lossy(fragment);
            text.push_str(if starts { decoded.trim_start() } else { &decoded });
            if !trim_end(fragment).is_empty() {
                end_of_text = physical.start + trim_end(fragment).len();
            }
            if !continues {
                break;
            }
        }
        if first == 0 {
            return Ok(None);
        }
        Ok(Some(self.finish_line(text, first, end_of_text).map_err(|problem| (first, problem))))
    }

    fn finish_line(
        &mut self,
        text: String,
        first: usize,
        end_of_text: usize,
    ) -> Result<LogicalLine, Problem> {
        let command = split_command(&text);
        let mut heredocs =
            if can_hold_heredoc(&command)? { Heredoc::all_in(&text)? } else { Vec::new() };
        for heredoc in &mut heredocs {
            self.read_heredoc(heredoc)?;
        }
        Ok(LogicalLine {
            text,
            command,
            heredocs,
            lines: LineRange { first, last: self.line },
            end_of_text,
        })
    }

    fn read_heredoc(&mut self, heredoc: &mut Heredoc) -> Result<(), Problem> {
        while let Some(physical) = self.next_line()? {
            let line = String::from_utf8_lossy(without_line_end(physical.bytes));
            if heredoc.ends_at(&line) {
                return Ok(());
            }
            heredoc.content.push_str(&String::from_utf8_lossy(physical.bytes));
        }
        Err(Problem::UnterminatedHeredoc { name: heredoc.name.clone() })
    }

    fn next_line(&mut self) -> Result<Option<PhysicalLine<'a>>, Problem> {
        if self.line == 0 && self.source.starts_with(b"\xef\xbb\xbf") {
            self.position = 3;
        }
        let rest = &self.source[self.position..];
        if rest.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        let end = rest.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(rest.len(), |end| end + 1);
        if length > MAXIMUM_LINE || (end.is_none() && length == MAXIMUM_LINE) {
            return Err(Problem::LineTooLong);
        }
        let physical = PhysicalLine { bytes: &rest[..length], start: self.position };
        self.position += length;
        Ok(Some(physical))
    }
}

/// Returns whether the instruction is one whose `<<` opens a heredoc.
fn can_hold_heredoc(command: &Command) -> Result<bool, Problem> {
    let command = if command.name.eq_ignore_ascii_case("onbuild") {
        Cow::Owned(split_command(&command.arguments))
    } else {
        Cow::Borrowed(command)
    };
    let holds = ["add", "copy", "run"].iter().any(|name| command.name.eq_ignore_ascii_case(name));
    Ok(holds && json_list(&command.arguments)?.is_none())
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
    &line[..end.map_or(0, |end| end + 1)]
}

/// Takes the escape character from the end of a line that goes on; a doubled one does not.
fn without_continuation(line: &[u8], escape: char) -> (&[u8], bool) {
    let end = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t'));
    let is_escape = |index: usize| char::from(line[index]) == escape;
    match end {
        Some(end) if is_escape(end) && (end == 0 || !is_escape(end - 1)) => (&line[..end], true),
        _ => (line, false),
    }
}

/// Trims white space from the end, and leaves bytes alone that are not UTF-8.
fn trim_end(bytes: &[u8]) -> &[u8] {
    match bytes.utf8_chunks().last() {
        Some(last) if last.invalid().is_empty() => {
            let blank = last.valid().len() - last.valid().trim_end().len();
            &bytes[..bytes.len() - blank]
        }
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        read(source.as_bytes()).unwrap().1.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn continuations_skip_comments_and_blank_lines() {
        assert_eq!(
            texts("\u{feff}FROM a\r\n\r\n# c\r\nRUN a \\\r\n  # d\r\n\r\n  b \\ \t\r\n c\r\n"),
            ["FROM a", "RUN a   b  c"]
        );
        assert_eq!(texts("RUN a\\\\\nRUN b"), ["RUN a\\\\", "RUN b"]);
        assert_eq!(texts("# escape=`\nRUN a `\n b\\\nRUN c"), ["RUN a  b\\", "RUN c"]);
        assert_eq!(texts("RUN a \\"), ["RUN a "]);
    }

    #[test]
    fn heredocs_belong_to_their_instruction() {
        let source = "RUN <<A cat <<-B\n# no comment\nFROM x\nA\n\ty\n\tB\nRUN z\n";
        let (_, lines) = read(source.as_bytes()).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].heredocs[0].content, "# no comment\nFROM x\n");
        assert_eq!(lines[0].heredocs[1].content, "\ty\n");
        assert_eq!(lines[0].lines, LineRange { first: 1, last: 6 });
        assert_eq!(lines[1].lines, LineRange { first: 7, last: 7 });
    }

    #[test]
    fn only_some_instructions_hold_heredocs() {
        assert_eq!(texts("ENV A <<B\nCMD cat <<EOF\nRUN [\"<<x\"]\n").len(), 3);
        assert_eq!(texts("ONBUILD RUN <<E\nx\nE\nRUN y").len(), 2);
    }

    #[test]
    fn errors_name_their_line() {
        let error = |source: &str| read(source.as_bytes()).unwrap_err();
        let (line, problem) = error("FROM a\nRUN \\\n  <<E\nx\n");
        assert_eq!(
            (line, problem.to_string().as_str()),
            (2, "unterminated heredoc (expected `E` on a line of its own)")
        );
        assert_eq!(
            error(&format!("FROM a\n# {}\n", "x".repeat(70_000))),
            (2, Problem::LineTooLong)
        );
    }
}
