//! An ordered list of variables, as BuildKit keeps the environment of a build.

/// Variables in the order in which the builder passes them to a command.
///
/// The order matters: it is part of what the builder digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Sets a variable, and moves it to the end: a build state orders by last definition.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.retain(|(key, _)| key != name);
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// Sets a variable where it stands, as an image config does.
    pub(crate) fn set_in_place(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some(pair) => value.clone_into(&mut pair.1),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Iterates over names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Returns how many variables are set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether no variable is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
        environment.set("A", "3");
        assert_eq!(environment.iter().collect::<Vec<_>>(), [("B", "2"), ("A", "3")]);
        environment.set_in_place("B", "4");
        assert_eq!(environment.iter().collect::<Vec<_>>(), [("B", "4"), ("A", "3")]);
    }
}
