//! Keeps control characters of strangers' texts away from the terminal.

use std::borrow::Cow;

/// Replaces control and text-direction characters; line breaks and tabs stay.
pub fn sanitized(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_hostile) {
        text.chars().map(|c| if is_hostile(c) { '\u{fffd}' } else { c }).collect()
    } else {
        Cow::Borrowed(text)
    }
}

fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::sanitized;

    #[test]
    fn a_tag_cannot_move_the_cursor() {
        assert_eq!(sanitized("app\u{1b}[2J\u{202e}x\n"), "app\u{fffd}[2J\u{fffd}x\n");
        assert_eq!(sanitized("größe"), "größe");
    }
}
