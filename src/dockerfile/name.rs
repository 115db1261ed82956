//! Rewrites a Dockerfile for builds of single stages: each stage gets a name that `--target` takes,
//! and a stage can be cut behind its last step that succeeded. Line numbers stay.

use super::file::Dockerfile;
use super::lines::LineRange;
use std::ops::Range;

/// Stands in for the options of the builder's checks: a name in another case than its `FROM`
/// would fail a build with `error=true`.
const NO_CHECKS: &str = "# check=skip=all";

/// A part of the file, and what replaces it.
type Edit = (Range<usize>, String);

impl Dockerfile {
    /// Returns the same Dockerfile with a name for every unnamed stage, and the name of each stage.
    ///
    /// Everything else stays byte for byte, except that the builder's own checks are off. A stage
    /// whose name a later stage takes again can't be reached with `--target`: its name is `None`.
    pub fn with_names(&self) -> (Vec<u8>, Vec<Option<String>>) {
        let (edits, names) = self.names();
        (self.edited(edits), names)
    }

    /// Returns the copy of [`Self::with_names`] in which a stage ends with the instruction on the
    /// lines `last`. Other stages stay as they are.
    pub(crate) fn cut(&self, stage: usize, last: LineRange) -> Vec<u8> {
        let lines: Vec<&[u8]> = self.source().split_inclusive(|byte| *byte == b'\n').collect();
        let start_of = |line: usize| lines[..line.min(lines.len())].iter().map(|l| l.len()).sum();
        let next = self.stages().get(stage + 1);
        let until = next.map_or(lines.len(), |next| next.lines.first - 1);
        let removed: Range<usize> = start_of(last.last)..start_of(until);
        let newlines = lines[last.last..until]
            .iter()
            .filter(|line| {
                line.ends_with(
                    b"
",
                )
            })
            .count();
        let (mut edits, _) = self.names();
        edits.push((removed, "\n".repeat(newlines)));
        edits.sort_by_key(|(range, _)| range.start);
        self.edited(edits)
    }

    /// The edits that name all stages, in the order of the file, and the names.
    fn names(&self) -> (Vec<Edit>, Vec<Option<String>>) {
        let stages = self.stages();
        let prefix = self.unused_prefix();
        let mut edits = Vec::new();
        edits.extend(self.directives().check.clone().map(|line| (line, NO_CHECKS.to_owned())));
        let mut names = Vec::with_capacity(stages.len());
        for (index, stage) in stages.iter().enumerate() {
            if let Some(name) = &stage.name {
                let taken =
                    stages[index + 1..].iter().any(|later| later.name.as_ref() == Some(name));
                names.push(Some(name.clone()).filter(|_| !taken));
                continue;
            }
            let name = format!("{prefix}{index}");
            edits.push((stage.end_of_from..stage.end_of_from, format!(" AS {name}")));
            names.push(Some(name));
        }
        (edits, names)
    }

    fn edited(&self, edits: Vec<Edit>) -> Vec<u8> {
        let mut source = Vec::with_capacity(self.source().len());
        let mut copied = 0;
        for (range, text) in edits {
            source.extend_from_slice(&self.source()[copied..range.start]);
            source.extend_from_slice(text.as_bytes());
            copied = range.end;
        }
        source.extend_from_slice(&self.source()[copied..]);
        source
    }

    /// Finds a beginning for names that occurs nowhere in the file, so that it can't clash.
    fn unused_prefix(&self) -> String {
        let text = String::from_utf8_lossy(self.source()).to_lowercase();
        let mut prefix = "dockercache-stage-".to_owned();
        while text.contains(&prefix) {
            prefix.push_str("x-");
        }
        prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let dockerfile = Dockerfile::parse(source.as_bytes(), "Dockerfile").unwrap();
        let (rewritten, names) = dockerfile.with_names();
        assert_eq!(String::from_utf8(rewritten.clone()).unwrap(), expected);
        let again = Dockerfile::parse(&rewritten, "Dockerfile").unwrap();
        let found: Vec<_> = again.stages().iter().map(|stage| stage.name.clone()).collect();
        assert_eq!(found, names);
    }

    #[test]
    fn unnamed_stages_get_names() {
        check(
            "FROM a AS b\nFROM c \t\r\nRUN x\nFROM d",
            "FROM a AS b\nFROM c AS dockercache-stage-1 \t\r\nRUN x\nFROM d AS dockercache-stage-2",
        );
        check(
            "FROM --platform=x \\\n # y\n  a \\\n\n# z\n",
            "FROM --platform=x \\\n # y\n  a AS dockercache-stage-0 \\\n\n# z\n",
        );
        check("# escape=`\nfrom a `\n", "# escape=`\nfrom a AS dockercache-stage-0 `\n");
        check(
            "FROM a as dockercache-stage-1\nFROM b",
            "FROM a as dockercache-stage-1\nFROM b AS dockercache-stage-x-1",
        );
    }

    #[test]
    fn checks_are_off_where_stages_got_names() {
        check(
            "\u{feff}# syntax=x\r\n  # CHECK = error=true \r\n# escape=`\r\nfrom a `\r\n",
            "\u{feff}# syntax=x\r\n# check=skip=all\r\n# escape=`\r\nfrom a AS dockercache-stage-0 `\r\n",
        );
        let comment = "FROM a AS b\n# check=error=true\n";
        check(comment, comment);
    }

    #[test]
    fn a_cut_stage_ends_with_its_instruction() {
        let source = "# check=error=true\nFROM a\nRUN one\nRUN <<E cat\nx\nE\n# c\nRUN \\\n three\n\nFROM b AS c\nCOPY --from=0 / /\nRUN four";
        let dockerfile = Dockerfile::parse(source.as_bytes(), "Dockerfile").unwrap();
        let cut = |stage: usize, instruction: usize| {
            let last = dockerfile.stages()[stage].instructions[instruction].lines;
            String::from_utf8(dockerfile.cut(stage, last)).unwrap()
        };
        let named = "# check=skip=all\nFROM a AS dockercache-stage-0\nRUN one\n";
        let rest = "FROM b AS c\nCOPY --from=0 / /\n";
        assert_eq!(cut(0, 0), format!("{named}\n\n\n\n\n\n\n{rest}RUN four"));
        assert_eq!(cut(0, 1), format!("{named}RUN <<E cat\nx\nE\n\n\n\n\n{rest}RUN four"));
        let whole = String::from_utf8(dockerfile.with_names().0).unwrap();
        assert_eq!(cut(0, 2), whole);
        assert_eq!(cut(1, 0), whole.replace("RUN four", ""));
        assert_eq!(cut(1, 1), whole);
        let from = String::from_utf8(dockerfile.cut(0, dockerfile.stages()[0].lines)).unwrap();
        assert_eq!(from.lines().count(), 13);
        assert_eq!(Dockerfile::parse(from.as_bytes(), "x").unwrap().stages()[0].instructions, []);
    }

    #[test]
    fn a_shadowed_stage_has_no_name() {
        let dockerfile = Dockerfile::parse(b"FROM a AS x\nFROM b AS x", "Dockerfile").unwrap();
        assert_eq!(dockerfile.with_names().1, [None, Some("x".to_owned())]);
    }
}
