//! The one place that cleans what is shown. Names, instructions and errors may come from an archive
//! or a store of a stranger: they must neither move a terminal's cursor nor give orders to a CI
//! system, which reads commands from the log.

use std::borrow::Cow;

/// A text of several lines: replaces control and text-direction characters, and what begins a
/// command of a CI system anywhere in a line (`##[` and `##vso[`). Line breaks and tabs stay.
pub fn sanitized(text: &str) -> Cow<'_, str> {
    let mut text = replaced(text, |c| is_hostile(c) && c != '\n' && c != '\t');
    for command in ["##[", "##vso[", "##teamcity["] {
        if text.contains(command) {
            text = text.replace(command, &command.replacen("##", "#\u{fffd}", 1)).into();
        }
    }
    text
}

/// A text of one line, as a name is: line breaks and tabs go, too. Only so it can't begin a line of
/// its own, where GitHub takes `::` for a command.
pub fn one_line(text: &str) -> Cow<'_, str> {
    match sanitized(text) {
        Cow::Borrowed(text) => replaced(text, is_hostile),
        Cow::Owned(text) => Cow::Owned(replaced(&text, is_hostile).into_owned()),
    }
}

fn replaced(text: &str, is_hostile: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().any(&is_hostile) {
        text.chars().map(|c| if is_hostile(c) { '\u{fffd}' } else { c }).collect()
    } else {
        Cow::Borrowed(text)
    }
}

fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_cannot_move_the_cursor() {
        assert_eq!(sanitized("app\u{1b}[2J\u{202e}x\n"), "app\u{fffd}[2J\u{fffd}x\n");
        assert_eq!(sanitized("größe"), "größe");
    }

    #[test]
    fn a_name_cannot_begin_a_line_or_give_a_ci_system_a_command() {
        assert_eq!(one_line("a\n::add-mask::e\r\tb"), "a\u{fffd}::add-mask::e\u{fffd}\u{fffd}b");
        assert_eq!(one_line("##[set-env]a\n##vso[x"), "#\u{fffd}[set-env]a\u{fffd}#\u{fffd}vso[x");
        assert_eq!(one_line("## a heading"), "## a heading");
    }
}
