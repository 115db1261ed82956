//! JSON that strangers may have written: looked at before it is parsed.
//!
//! A document is read whole, and its size is bounded. But a few bytes of text may become a hundred
//! in memory, so the number of its values is bounded, too.

use serde::de::{DeserializeOwned, Error as _};

/// The most values that a document may have. Cache records that builders accept stay below 60,000.
pub(crate) const VALUES_LIMIT: usize = 150_000;

/// Parses a document of not too many values.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let values = values_in(text);
    if values > VALUES_LIMIT {
        let reason = format!("it has {values} values, more than {VALUES_LIMIT}");
        return Err(serde_json::Error::custom(reason));
    }
    serde_json::from_slice(text)
}

/// How many values there are in a document, or some more.
fn values_in(text: &[u8]) -> usize {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' | b',' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

/// What the documents of an archive may have together. Without this, each could be within its
/// limits and all of them fill the memory.
pub(crate) struct Budget {
    bytes: usize,
    values: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: 32 << 20, values: 400_000 }
    }
}

impl Budget {
    /// Takes a document's share; or says what is exceeded.
    pub(crate) fn take(&mut self, text: &[u8]) -> Result<(), String> {
        let all = Self::default();
        let bytes = self.bytes.checked_sub(text.len());
        self.bytes =
            bytes.ok_or_else(|| format!("its manifests have more than {} bytes", all.bytes))?;
        let values = self.values.checked_sub(values_in(text));
        self.values =
            values.ok_or_else(|| format!("its manifests have more than {} values", all.values))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_strings_are_not_looked_into() {
        for (text, count) in
            [("1", 1), (r#""[{,:,:,:\"[[[[\\""#, 1), ("[1,2,3]", 4), (r#"{"a":{"b":[true]}}"#, 4)]
        {
            assert_eq!(values_in(text.as_bytes()), count, "{text}");
        }
    }

    #[test]
    fn a_document_of_too_many_values_is_refused() {
        let text = |count: usize| format!("[{}1]", "1,".repeat(count));
        assert!(parse::<Vec<u8>>(text(1000).as_bytes()).is_ok());
        let error = parse::<Vec<u8>>(text(VALUES_LIMIT).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("more than 150000"), "{error}");
    }

    #[test]
    fn a_budget_is_for_all_documents_together() {
        let mut budget = Budget::default();
        let text = format!("[{}1]", "1,".repeat(100_000));
        let taken = (0..10).map_while(|_| budget.take(text.as_bytes()).ok()).count();
        assert_eq!(taken, 3);
        let mut budget = Budget::default();
        let text = " ".repeat(8 << 20);
        assert_eq!((0..10).map_while(|_| budget.take(text.as_bytes()).ok()).count(), 4);
    }
}
