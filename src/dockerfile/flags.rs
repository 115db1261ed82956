//! The `--flags` of an instruction: which there are, and what values they take.

use super::error::{Problem, suggest};
use std::collections::BTreeMap;

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagKind {
    /// Nothing, `=true`, or `=false`.
    Switch,
    /// One value.
    Value,
    /// One value each time it is given.
    List,
}

/// The flags of one instruction, checked.
#[derive(Default)]
pub(crate) struct Flags(BTreeMap<String, Vec<String>>);

impl Flags {
    /// Checks `words` such as `--from=x` against the flags that the instruction knows.
    pub(crate) fn parse(words: &[String], known: &[(&str, FlagKind)]) -> Result<Self, Problem> {
        let mut flags = Self::default();
        for word in words {
            let word = word.strip_prefix("--").unwrap_or(word);
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let flag = || name.to_owned();
            let Some((_, kind)) = known.iter().find(|(known, _)| *known == name) else {
                let suggestion = suggest(name, known.iter().map(|(known, _)| *known));
                return Err(Problem::UnknownFlag { flag: flag(), suggestion });
            };
            let values = flags.0.entry(flag()).or_default();
            if !values.is_empty() && *kind != FlagKind::List {
                return Err(Problem::DuplicateFlag { flag: flag() });
            }
            let value = match (kind, value) {
                (FlagKind::Switch, None) => "true".to_owned(),
                (FlagKind::Switch, Some(value)) if !value.is_empty() => {
                    let lower = value.to_lowercase();
                    if lower != "true" && lower != "false" {
                        return Err(Problem::FlagNotBoolean {
                            flag: flag(),
                            value: value.to_owned(),
                        });
                    }
                    lower
                }
                (FlagKind::Value | FlagKind::List, Some(value)) => value.to_owned(),
                _ => return Err(Problem::FlagWithoutValue { flag: flag() }),
            };
            values.push(value);
        }
        Ok(flags)
    }

    /// Takes the value of a flag; an empty one is as good as none.
    pub(crate) fn value(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)?.pop().filter(|value| !value.is_empty())
    }

    pub(crate) fn list(&mut self, name: &str) -> Vec<String> {
        self.0.remove(name).unwrap_or_default()
    }

    /// Takes a switch; `None` where it is not given.
    pub(crate) fn switch(&mut self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value == "true")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Flags, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let known =
            [("from", FlagKind::Value), ("link", FlagKind::Switch), ("mount", FlagKind::List)];
        Flags::parse(&words, &known).map_err(|problem| problem.to_string())
    }

    #[test]
    fn values_are_checked() {
        let mut flags = parse(&["--from=a=b", "--link", "--mount=1", "--mount=2"]).unwrap();
        assert_eq!(flags.value("from").as_deref(), Some("a=b"));
        assert_eq!(flags.switch("link"), Some(true));
        assert_eq!(flags.list("mount"), ["1", "2"]);
        assert_eq!(parse(&["--link=False"]).unwrap().switch("link"), Some(false));
    }

    #[test]
    fn wrong_flags_are_refused() {
        for (words, expected) in [
            (vec!["--form=x"], "unknown flag: --form (did you mean from?)"),
            (vec!["--x"], "unknown flag: --x"),
            (vec!["--from=a", "--from=b"], "duplicate flag specified: --from"),
            (vec!["--from"], "missing a value on flag: --from"),
            (vec!["--link="], "missing a value on flag: --link"),
            (vec!["--link=1"], "expecting boolean value for flag --link, not: 1"),
        ] {
            assert_eq!(parse(&words).err().as_deref(), Some(expected));
        }
    }
}
