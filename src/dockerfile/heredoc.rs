//! Heredocs: finding `<<NAME` in an instruction, and the lines that belong to it.

use super::environment::Environment;
use super::error::Problem;
use super::expand::Lexer;

/// One heredoc of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, which is also the name of the file that it stands for.
    pub name: String,
    /// The lines as they stand in the Dockerfile, line ends included.
    pub content: String,
    /// Whether variables in it are expanded: the name was not quoted.
    pub expand: bool,
    /// Whether leading tabs go: `<<-`.
    pub chomp: bool,
}

impl Heredoc {
    /// Reads a word such as `<<EOF`, `3<<-'EOF'`; other words are `None`.
    pub(crate) fn from_word(word: &str) -> Result<Option<Self>, Problem> {
        let rest = word.trim_start_matches(|character: char| character.is_ascii_digit());
        let Some(rest) = rest.strip_prefix("<<") else {
            return Ok(None);
        };
        let (chomp, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.trim_start();
        if rest.is_empty() || rest.contains('<') {
            return Ok(None);
        }
        let nothing = Environment::default();
        let plain = Lexer::for_heredoc_name(false).split(rest, &nothing)?;
        let raw = Lexer::for_heredoc_name(true).split(rest, &nothing)?;
        let ([name], [raw]) = (plain.as_slice(), raw.as_slice()) else {
            return Ok(None);
        };
        let quotes = |text: &str| text.matches(['\'', '"']).count();
        Ok(Some(Self {
            name: name.clone(),
            content: String::new(),
            expand: quotes(name) == quotes(raw),
            chomp,
        }))
    }

    /// Finds the heredocs that one logical line opens, in order.
    pub(crate) fn all_in(line: &str) -> Result<Vec<Self>, Problem> {
        if !line.contains("<<") {
            return Ok(Vec::new());
        }
        // A line that does not lex, such as one with an odd quote, opens none.
        let words = Lexer::verbatim().split(line, &Environment::default()).unwrap_or_default();
        words.iter().filter_map(|word| Self::from_word(word).transpose()).collect()
    }

    /// Returns whether a line, without its line end, closes this heredoc.
    pub(crate) fn ends_at(&self, line: &str) -> bool {
        let line = if self.chomp { line.trim_start_matches('\t') } else { line };
        line == self.name
    }

    /// Returns the content as the instruction sees it: without leading tabs if so asked.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_a_line() {
        let names = |line| -> Vec<(String, bool, bool)> {
            Heredoc::all_in(line)
                .unwrap()
                .into_iter()
                .map(|heredoc| (heredoc.name, heredoc.expand, heredoc.chomp))
                .collect()
        };
        let one = |name: &str, expand, chomp| (name.to_owned(), expand, chomp);
        assert_eq!(names("RUN <<EOF"), [one("EOF", true, false)]);
        assert_eq!(names("RUN <<-'EOF' x"), [one("EOF", false, true)]);
        assert_eq!(names("RUN 3<< \"E F\""), [one("E F", false, false)]);
        assert_eq!(names("COPY <<a <<b /c"), [one("a", true, false), one("b", true, false)]);
        assert_eq!(names("RUN cat <<< text"), []);
        assert_eq!(names("RUN echo 'x <<EOF'"), []);
        assert_eq!(names("RUN <<$EOF"), [one("$EOF", true, false)]);
    }

    #[test]
    fn chomping_removes_leading_tabs() {
        let mut heredoc = Heredoc::from_word("<<-EOF").unwrap().unwrap();
        heredoc.content = "\t\ta\n\tb\n c\n".to_owned();
        assert_eq!(heredoc.text(), "a\nb\n c\n");
        assert!(heredoc.ends_at("\tEOF"));
        assert!(!heredoc.ends_at(" EOF"));
    }
}
