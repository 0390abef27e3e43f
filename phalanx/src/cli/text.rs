//! What comes from a server, made safe to show: nothing in it may steer the terminal or hide from the reader.

/// On one line.
pub fn line(text: &str) -> String {
    escape(text, false)
}

/// Line ends and tabs stay.
pub fn lines(text: &str) -> String {
    escape(text, true)
}

fn escape(text: &str, keep_lines: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if keep_lines => safe.push(c),
            c if steers(c) => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

/// Control characters, and those that reorder or hide text (Unicode TR 36).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// JSON text with line breaks and indentation. Keys stay in their order and numbers keep their digits, which a round trip
/// through a parser would not promise.
pub fn pretty(json: &str) -> String {
    let mut shown = String::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let mut chars = json.chars().filter(|c| *c != '\r').peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => string(&mut chars, &mut shown),
            '{' | '[' => {
                while chars.peek().is_some_and(char::is_ascii_whitespace) {
                    chars.next();
                }
                shown.push(c);
                if matches!(chars.peek(), Some('}' | ']')) {
                    shown.extend(chars.next());
                } else {
                    depth += 1;
                    new_line(&mut shown, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut shown, depth);
                shown.push(c);
            }
            ',' => {
                shown.push(c);
                new_line(&mut shown, depth);
            }
            ':' => shown.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => push(&mut shown, c),
        }
    }
    shown
}

fn string(chars: &mut impl Iterator<Item = char>, shown: &mut String) {
    shown.push('"');
    while let Some(c) = chars.next() {
        push(shown, c);
        match c {
            '"' => return,
            '\\' => shown.extend(chars.next()),
            _ => {}
        }
    }
}

/// A character of a JSON string; JSON itself lets DEL, the C1 controls and the reordering ones through.
fn push(shown: &mut String, c: char) {
    if steers(c) {
        shown.push_str(&format!("\\u{:04x}", c as u32));
    } else {
        shown.push(c);
    }
}

fn new_line(shown: &mut String, depth: usize) {
    shown.push('\n');
    shown.push_str(&"  ".repeat(depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(
            line("a\u{1b}[31m\nb\u{9b}2J\u{202e}"),
            "a\\u{1b}[31m\\nb\\u{9b}2J\\u{202e}"
        );
        assert_eq!(lines("a\n\tb\r"), "a\n\tb\\r");
        assert_eq!(line("Grüße 안녕"), "Grüße 안녕");
    }

    #[test]
    fn json_keeps_its_order_and_digits() {
        let given = r#"{"b":[1,2.50,123456789012345678901234567890],"a":{},"c":[ ],"d":"x\"{,}\\","e":null}"#;
        let wanted = "{\n  \"b\": [\n    1,\n    2.50,\n    123456789012345678901234567890\n  ],\n  \"a\": {},\n  \"c\": [],\n  \"d\": \"x\\\"{,}\\\\\",\n  \"e\": null\n}";
        assert_eq!(pretty(given), wanted);
        assert_eq!(pretty(wanted), wanted);
        assert_eq!(pretty("\"\u{9b}2J\u{7f}\""), "\"\\u009b2J\\u007f\"");
    }
}
