//! Variables in parameters: `$NAME` and `${NAME}` are replaced, `$$` is a dollar, and nothing is
//! evaluated.

/// Replaces the variables in `text` by what `lookup` gives.
///
/// A dollar that begins no name stands for itself. An undefined variable is an error, and so is
/// `${` with anything but a name: a build with an empty or literal value would be worse.
pub(super) fn substitute(
    text: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let (name, after) = match rest.strip_prefix('{') {
            Some(inside) => inside
                .split_once('}')
                .filter(|(name, _)| !name.is_empty() && leading_name(name) == *name)
                .ok_or("`${` begins no variable: write `${NAME}`, or `$$` for a dollar")?,
            None => rest.split_at(leading_name(rest).len()),
        };
        if name.is_empty() {
            result.push('$');
            continue;
        }
        let value = lookup(name);
        result.push_str(&value.ok_or_else(|| {
            format!("the variable `{name}` is not defined: set it, or write `$$` for a dollar")
        })?);
        rest = after;
    }
    Ok(result + rest)
}

/// The variable's name at the start of `text`; empty if there is none.
fn leading_name(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let name = &text[..end.unwrap_or(text.len())];
    if name.starts_with(|c: char| c.is_ascii_digit()) { "" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_variables(text: &str) -> Result<String, String> {
        substitute(text, |name| match name {
            "A" => Some("1".to_owned()),
            "LONG_2" => Some("$A `id`".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn replaces_names_and_evaluates_nothing() {
        for (text, expected) in [
            ("$A-${A}b", "1-1b"),
            ("--opt=${LONG_2}", "--opt=$A `id`"),
            ("$EMPTY", ""),
            ("cost: $$A, 5$", "cost: $A, 5$"),
            ("$(touch x) `id` $1 $/ $-", "$(touch x) `id` $1 $/ $-"),
            ("é$A", "é1"),
        ] {
            assert_eq!(with_variables(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn names_the_undefined_variable() {
        for text in ["$NOPE", "x${NOPE}y"] {
            assert!(with_variables(text).unwrap_err().contains("`NOPE` is not defined"), "{text}");
        }
    }

    #[test]
    fn refuses_forms_that_a_shell_would_evaluate() {
        for text in ["${A:-x}", "${", "${}", "${A", "${1}"] {
            assert!(with_variables(text).unwrap_err().contains("begins no variable"), "{text}");
        }
    }
}
