//! What a store's clients are told by the environment: variables, and files at home.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A snapshot of the variables, so that no store reads them behind another's back.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// The variables of this process. What is no UTF-8 names no store.
    pub fn of_process() -> Self {
        let text = |text: std::ffi::OsString| text.into_string().ok();
        std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()
    }

    /// The value of a variable; `None` too if it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables that have a value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.keys().filter_map(|name| Some((name.as_str(), self.get(name)?)))
    }

    /// The file or directory that the variable names, or else the one at home.
    pub(crate) fn path(&self, name: &str, at_home: &str) -> Option<PathBuf> {
        let at_home = || Some(PathBuf::from(self.get("HOME")?).join(at_home));
        self.get(name).map(PathBuf::from).or_else(at_home)
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Variables {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
