//! Text that callers send and text that is shown back to them.

/// Quotes what a caller sent for an error message: escaped, and cut so that a megabyte is never echoed.
pub fn quote(text: &str) -> String {
    const MOST: usize = 64;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}

/// One line of printable text of at most `most` characters; any script, no control characters, not blank.
pub fn line(text: &str, most: usize) -> Result<(), String> {
    let count = text.chars().count();
    if text.trim().is_empty() {
        return Err(format!("is empty; allowed are 1 to {most} characters"));
    }
    if count > most {
        return Err(format!("has {count} characters; allowed are 1 to {most}"));
    }
    prose(text, most, false)
}

/// Text of at most `most` characters, possibly empty, possibly over several lines.
pub fn prose(text: &str, most: usize, lines: bool) -> Result<(), String> {
    let count = text.chars().count();
    if count > most {
        return Err(format!(
            "has {count} characters; allowed are at most {most}"
        ));
    }
    let bad = text
        .chars()
        .find(|c| is_hidden(*c) && !(lines && matches!(c, '\n' | '\r' | '\t')));
    match bad {
        Some(c) => Err(format!(
            "holds the control character U+{:04X}; allowed is printable text",
            c as u32
        )),
        None => Ok(()),
    }
}

/// Control characters, and those that reorder or hide what a reader sees (Unicode TR 36, bidi and zero-width).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert!(line("Grüße 안녕 👋", 20).is_ok());
        for bad in ["", "   ", "a\nb", "a\u{0}b", "\u{202E}evil", "x\u{1b}[31m"] {
            assert!(line(bad, 20).is_err(), "{bad:?}");
        }
        assert!(line(&"x".repeat(21), 20).is_err());
    }

    #[test]
    fn quotes_are_bounded() {
        assert!(quote(&"x".repeat(1 << 20)).len() < 80);
        assert_eq!(quote("a\u{1b}b"), "\"a\\u{1b}b\"");
    }
}
