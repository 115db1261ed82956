//! JSON that strangers may have written: looked at before it is parsed.
//!
//! A document is read whole, and its size is bounded. But a few bytes of text may become a hundred
//! in memory, so the number of its values is bounded, too.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _};

/// The most values that a document may have. Real ones stay below 80,000.
pub(crate) const VALUES_LIMIT: usize = 250_000;

/// Parses a document of not too many values.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let values = values_in(text);
    if values > VALUES_LIMIT {
        return Err(serde_json::Error::custom(TooManyValues(values)));
    }
    serde_json::from_slice(text)
}

/// How many values there are in a document, names included: an upper bound.
pub(crate) fn values_in(text: &[u8]) -> usize {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' | b',' | b':' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

struct TooManyValues(usize);

impl fmt::Display for TooManyValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it has {} values, more than {VALUES_LIMIT}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_strings_are_not_looked_into() {
        for (text, count) in
            [("1", 1), (r#""[{,:,:,:\"[[[[\\""#, 1), ("[1,2,3]", 4), (r#"{"a":{"b":[true]}}"#, 6)]
        {
            assert_eq!(values_in(text.as_bytes()), count, "{text}");
        }
    }

    #[test]
    fn a_document_of_too_many_values_is_refused() {
        let text = |count: usize| format!("[{}1]", "1,".repeat(count));
        assert!(parse::<Vec<u8>>(text(1000).as_bytes()).is_ok());
        let error = parse::<Vec<u8>>(text(VALUES_LIMIT).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("more than 250000"), "{error}");
    }
}
