//! Splits the text of one instruction: name, flags, words, pairs, and JSON lists.

use super::error::Problem;

/// An instruction's name, its `--flags`, and the rest, none of them interpreted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) flags: Vec<String>,
    pub(crate) arguments: String,
}

/// Splits one logical line.
pub(crate) fn split_command(line: &str) -> Command {
    let (name, rest) = split_once_at_blank(line.trim());
    let (flags, arguments) = split_flags(rest);
    Command { name: name.to_owned(), flags, arguments: arguments.trim().to_owned() }
}

/// Splits at white space, as the builder does for lists without quotes.
pub(crate) fn split_at_blanks(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut words = vec![String::new()];
    let mut in_blank = false;
    for character in text.chars() {
        if is_blank(character) {
            if !in_blank {
                words.push(String::new());
            }
            in_blank = true;
        } else {
            in_blank = false;
            if let Some(word) = words.last_mut() {
                word.push(character);
            }
        }
    }
    words
}

/// Splits at spaces outside quotes, and keeps quotes and escapes for the expansion.
pub(crate) fn split_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if quote.is_none() && character.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        if character == escape && quote != Some('\'') {
            // At the very end an escape has nothing to escape, and goes.
            let Some(escaped) = characters.next() else {
                break;
            };
            word.push(character);
            word.push(escaped);
            continue;
        }
        match quote {
            None if matches!(character, '\'' | '"') => quote = Some(character),
            Some(open) if open == character => quote = None,
            _ => {}
        }
        word.push(character);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Reads `name=value …`, or the old form `name value`.
pub(crate) fn pairs(
    text: &str,
    instruction: &'static str,
    escape: char,
) -> Result<Vec<(String, String)>, Problem> {
    let words = split_words(text, escape);
    let Some(first) = words.first() else {
        return Err(Problem::AtLeastOneArgument { instruction });
    };
    let pairs = if first.contains('=') {
        words
            .iter()
            .map(|word| {
                word.split_once('=')
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .ok_or_else(|| Problem::NoEquals { word: word.clone() })
            })
            .collect::<Result<Vec<_>, _>>()?
    } else {
        let (name, value) = split_once_at_blank(text);
        if name.len() == text.len() {
            return Err(Problem::TwoArguments { instruction });
        }
        vec![(name.to_owned(), value.to_owned())]
    };
    if pairs.iter().any(|(name, _)| name.is_empty()) {
        return Err(Problem::BlankName { instruction });
    }
    Ok(pairs)
}

/// Reads a JSON list of strings; anything that is no JSON list is `None`.
pub(crate) fn json_list(text: &str) -> Result<Option<Vec<String>>, Problem> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    values
        .into_iter()
        .map(|value| match value {
            serde_json::Value::String(text) => Ok(text),
            _ => Err(Problem::JsonNotStrings),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

fn split_once_at_blank(text: &str) -> (&str, &str) {
    match text.find(is_blank) {
        Some(end) => (&text[..end], text[end..].trim_start_matches(is_blank)),
        None => (text, ""),
    }
}

/// Takes the words that start with `--` from the front; `--` alone ends them.
fn split_flags(text: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (flag, length) = flag_word(rest);
        rest = rest[length..].trim_start();
        if flag == "--" {
            break;
        }
        flags.push(flag);
    }
    (flags, rest)
}

/// Reads one word, without its quotes; flags are always escaped with a backslash.
fn flag_word(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((position, character)) = characters.next() {
        match (quote, character) {
            (None, character) if character.is_whitespace() => return (word, position),
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), character) if open == character => quote = None,
            (_, '\\') => word.extend(characters.next().map(|(_, escaped)| escaped)),
            (_, character) => word.push(character),
        }
    }
    (word, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_before_the_arguments() {
        let command = split_command("  Copy --from=a --chown='x y' --link\\  -- --b c ");
        assert_eq!(command.name, "Copy");
        assert_eq!(command.flags, ["--from=a", "--chown=x y", "--link "]);
        assert_eq!(command.arguments, "--b c");
        assert_eq!(split_command("RUN").arguments, "");
        assert_eq!(split_command("RUN -x --y").flags, [""; 0]);
    }

    #[test]
    fn words_keep_their_quotes() {
        assert_eq!(
            split_words("a='b c' d=\"e \\\" f\" g\\ h '' \\", '\\'),
            ["a='b c'", "d=\"e \\\" f\"", "g\\ h", "''"]
        );
    }

    #[test]
    fn pairs_come_in_two_forms() {
        let pairs = |text| pairs(text, "ENV", '\\').map_err(|problem| problem.to_string());
        let owned = |list: &[(&str, &str)]| {
            list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(pairs("A=1 B='x y'").unwrap(), owned(&[("A", "1"), ("B", "'x y'")]));
        assert_eq!(pairs("A  b c=d").unwrap(), owned(&[("A", "b c=d")]));
        assert_eq!(pairs("A").unwrap_err(), "ENV must have two arguments");
        assert_eq!(pairs("").unwrap_err(), "ENV requires at least one argument");
        assert_eq!(pairs("=b").unwrap_err(), "ENV names can not be blank");
        assert_eq!(
            pairs("A=1 B").unwrap_err(),
            "Syntax error - can't find = in \"B\". Must be of the form: name=value"
        );
    }

    #[test]
    fn json_is_a_list_of_strings_or_none() {
        assert_eq!(json_list(r#" ["a", "b"]"#), Ok(Some(vec!["a".to_owned(), "b".to_owned()])));
        assert_eq!(json_list("[ -f x ]"), Ok(None));
        assert_eq!(json_list(r#"["a"] b"#), Ok(None));
        assert_eq!(json_list(r#"["a", 1]"#), Err(Problem::JsonNotStrings));
    }

    #[test]
    fn blanks_split_lists() {
        assert_eq!(split_at_blanks("a\t b  c"), ["a", "b", "c"]);
    }
}
