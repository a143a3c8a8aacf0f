//! JSON that is safe to show on a terminal.

use leasehold::Printable;
use serde::Serialize;

/// JSON on several lines.
pub(crate) fn pretty(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|json| escaped(&json))
}

/// JSON on one line.
pub(crate) fn line(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|json| escaped(&json))
}

/// Escapes the control characters that JSON permits in a text: DEL, those from U+0080 on, and bidirectional ones.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for char in json.chars() {
        let mut bytes = [0; 4];
        let text = &*char.encode_utf8(&mut bytes);
        if char >= '\u{7f}' && Printable(text).to_string() != text {
            // All of them have four digits.
            escaped += &format!("\\u{:04x}", u32::from(char));
        } else {
            escaped.push(char);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_no_control_characters_and_stay_the_same() {
        for text in
            ["a\u{1b}[2J\n", "\u{7f}\u{85}\u{9b}2J", "\u{202e}\u{2066}\u{2028}", "schlüssel 鍵 🔒 \u{ffff} \"\\u"]
        {
            let json = line(&text).unwrap();
            assert!(json.chars().all(|char| Printable(&char.to_string()).to_string() == char.to_string()), "{json:?}");
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
        assert_eq!(line(&"\u{9b}ü").unwrap(), r#""\u009bü""#);
        assert_eq!(pretty(&["\u{202e}"]).unwrap(), "[\n  \"\\u202e\"\n]");
    }
}
