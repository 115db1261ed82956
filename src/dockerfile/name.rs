//! Rewrites a Dockerfile so that each stage has a name that `--target` takes.

use super::file::Dockerfile;

impl Dockerfile {
    /// Returns the same Dockerfile with a name for every unnamed stage, and the name of each stage.
    ///
    /// Everything else stays byte for byte. A stage whose name a later stage takes again can't be
    /// reached with `--target`: its name is `None`.
    pub fn with_names(&self) -> (Vec<u8>, Vec<Option<String>>) {
        let stages = self.stages();
        let prefix = self.unused_prefix();
        let mut source = Vec::with_capacity(self.source().len());
        let mut copied = 0;
        let mut names = Vec::with_capacity(stages.len());
        for (index, stage) in stages.iter().enumerate() {
            if let Some(name) = &stage.name {
                let taken =
                    stages[index + 1..].iter().any(|later| later.name.as_ref() == Some(name));
                names.push(Some(name.clone()).filter(|_| !taken));
                continue;
            }
            let name = format!("{prefix}{index}");
            source.extend_from_slice(&self.source()[copied..stage.end_of_from]);
            source.extend_from_slice(format!(" AS {name}").as_bytes());
            copied = stage.end_of_from;
            names.push(Some(name));
        }
        source.extend_from_slice(&self.source()[copied..]);
        (source, names)
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
    fn a_shadowed_stage_has_no_name() {
        let dockerfile = Dockerfile::parse(b"FROM a AS x\nFROM b AS x", "Dockerfile").unwrap();
        assert_eq!(dockerfile.with_names().1, [None, Some("x".to_owned())]);
    }
}
