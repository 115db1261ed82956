//! An ordered list of variables, as BuildKit keeps the environment of a build.
//!
//! Every `RUN` of a plan holds the environment that it sees. They share what they have in common: a
//! copy costs nothing, however many variables there are.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Variables in the order in which the builder passes them to a command.
///
/// The order matters: it is part of what the builder digests.
#[derive(Clone, Default)]
pub struct Environment(Option<Arc<Definition>>);

/// The last definition, and all before it; one of the same name further back counts no more.
struct Definition {
    name: String,
    value: String,
    /// The length of all names and values up to here, those that count no more included.
    bytes: usize,
    before: Environment,
}

impl Environment {
    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.definitions().find(|one| one.name == name).map(|one| one.value.as_str())
    }

    /// Sets a variable, and moves it to the end: a build state orders by last definition.
    pub fn set(&mut self, name: &str, value: &str) {
        let bytes = self.bytes() + name.len() + value.len();
        let (name, value) = (name.to_owned(), value.to_owned());
        let before = std::mem::take(self);
        self.0 = Some(Arc::new(Definition { name, value, bytes, before }));
    }

    /// Iterates over names and values, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> + ExactSizeIterator {
        let mut seen = HashSet::new();
        let mut all: Vec<(&str, &str)> = self
            .definitions()
            .filter(|one| seen.insert(one.name.as_str()))
            .map(|one| (one.name.as_str(), one.value.as_str()))
            .collect();
        all.reverse();
        all.into_iter()
    }

    /// Iterates in the order of the first definitions, which is that of an image's config.
    pub(crate) fn iter_by_first_definition(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        let mut definitions: Vec<&Definition> = self.definitions().collect();
        definitions.reverse();
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut all: Vec<(&str, &str)> = Vec::new();
        for one in definitions {
            let place = *places.entry(&one.name).or_insert(all.len());
            match all.get_mut(place) {
                Some(pair) => pair.1 = &one.value,
                None => all.push((&one.name, &one.value)),
            }
        }
        all.into_iter()
    }

    /// Returns how much whoever goes through all variables reads, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |last| last.bytes)
    }

    /// Returns how many variables are set.
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Returns whether no variable is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// All definitions, the last one first.
    fn definitions(&self) -> impl Iterator<Item = &Definition> {
        std::iter::successors(self.0.as_deref(), |one| one.before.0.as_deref())
    }
}

impl Drop for Definition {
    /// Frees one definition after the other: a long list must not take as much stack.
    fn drop(&mut self) {
        let mut before = self.before.0.take();
        while let Some(mut one) = before.and_then(Arc::into_inner) {
            before = one.before.0.take();
        }
    }
}

impl PartialEq for Environment {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Environment {}

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut environment = Self::default();
        for (key, value) in pairs {
            environment.set(&key.into(), &value.into());
        }
        environment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_definition_gives_value_and_position() {
        let mut environment: Environment = [("A", "1"), ("B", "2")].into_iter().collect();
        let before = environment.clone();
        environment.set("A", "3");
        assert_eq!(environment.iter().collect::<Vec<_>>(), [("B", "2"), ("A", "3")]);
        let by_first: Vec<_> = environment.iter_by_first_definition().collect();
        assert_eq!(by_first, [("A", "3"), ("B", "2")]);
        assert_eq!(before.iter().collect::<Vec<_>>(), [("A", "1"), ("B", "2")]);
        assert_eq!(environment.len(), 2);
    }

    #[test]
    fn a_long_list_takes_no_stack() {
        let mut environment = Environment::default();
        for number in 0..200_000 {
            environment.set(&number.to_string(), "");
        }
        assert_eq!(environment.len(), 200_000);
    }
}
