//! [`Printable`]: safe display of untrusted text.

use std::fmt::{self, Write};

/// The maximum number of characters displayed.
const SHOWN: usize = 256;

/// A wrapper that displays untrusted text safely on a terminal or in a log: a key, a holder's name, a server's error.
///
/// Control characters are escaped as `\u{…}`: line breaks, terminal escape sequences, and bidirectional control characters. Text
/// longer than 256 characters is cut and ends with `…`. `{:?}` adds quotation marks, and escapes quotation marks and backslashes.
///
/// [`LockError`](crate::LockError), [`BackendError`](crate::backend::BackendError) and [`Holder`](crate::Holder) are displayed
/// this way; their fields have the complete text.
///
/// ```
/// use leasehold::Printable;
///
/// assert_eq!(Printable("nightly\u{1b}[2J\n").to_string(), r"nightly\u{1b}[2J\u{a}");
/// assert_eq!(format!("{:?}", Printable("\u{202e}a\"b")), r#""\u{202e}a\"b""#);
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Printable<'a>(pub &'a str);

impl Printable<'_> {
    fn write(self, f: &mut fmt::Formatter<'_>, escaped: &[char]) -> fmt::Result {
        let mut left = SHOWN;
        for char in self.0.chars() {
            let word: &mut dyn Iterator<Item = char> = if is_control(char) || is_line_break(char) {
                &mut char.escape_unicode()
            } else if escaped.contains(&char) {
                &mut ['\\', char].into_iter()
            } else {
                &mut std::iter::once(char)
            };
            let (width, _) = word.size_hint();
            let Some(rest) = left.checked_sub(width) else { return f.write_char('…') };
            left = rest;
            for char in word {
                f.write_char(char)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &[])
    }
}

impl fmt::Debug for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.write(f, &['"', '\\'])?;
        f.write_char('"')
    }
}

/// Whether a text has control characters or bidirectional control characters.
pub(crate) fn has_control(text: &str) -> bool {
    // Nearly all texts are printable ASCII: one pass over the bytes is enough for those.
    !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && text.chars().any(is_control)
}

fn is_control(char: char) -> bool {
    let is_bidirectional = matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    char.is_control() || is_bidirectional
}

/// Line breaks that are not control characters.
fn is_line_break(char: char) -> bool {
    matches!(char, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_as_they_are_displayed() {
        for (text, displayed, quoted) in [
            ("", "", r#""""#),
            ("deploy/eu 1", "deploy/eu 1", r#""deploy/eu 1""#),
            ("schlüssel 鍵 🔒 a\u{308}", "schlüssel 鍵 🔒 a\u{308}", "\"schlüssel 鍵 🔒 a\u{308}\""),
            (r#"a"b\c'"#, r#"a"b\c'"#, r#""a\"b\\c'""#),
            ("a\r\nb\t", r"a\u{d}\u{a}b\u{9}", r#""a\u{d}\u{a}b\u{9}""#),
            (
                "\u{1b}]0;x\u{7}\0\u{7f}\u{9b}",
                r"\u{1b}]0;x\u{7}\u{0}\u{7f}\u{9b}",
                r#""\u{1b}]0;x\u{7}\u{0}\u{7f}\u{9b}""#,
            ),
            (
                "\u{202a}\u{202e}\u{2066}\u{2069}",
                r"\u{202a}\u{202e}\u{2066}\u{2069}",
                r#""\u{202a}\u{202e}\u{2066}\u{2069}""#,
            ),
            ("\u{61c}\u{200e}\u{200f}", r"\u{61c}\u{200e}\u{200f}", r#""\u{61c}\u{200e}\u{200f}""#),
            ("\u{2028}\u{2029}", r"\u{2028}\u{2029}", r#""\u{2028}\u{2029}""#),
        ] {
            assert_eq!(Printable(text).to_string(), displayed);
            assert_eq!(format!("{:?}", Printable(text)), quoted);
            assert_eq!(Printable(displayed).to_string(), displayed, "what is displayed again stays the same");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let longest = "ä".repeat(SHOWN);
        assert_eq!(Printable(&longest).to_string(), longest);
        for (text, length) in
            [("k".repeat(1 << 20), SHOWN), ("\u{1b}".repeat(1 << 20), SHOWN / 6 * 6), (longest + "ä", SHOWN)]
        {
            let displayed = Printable(&text).to_string();
            assert_eq!(displayed.chars().count(), length + 1);
            assert!(displayed.ends_with('…'));
            assert_eq!(Printable(&displayed).to_string(), displayed);
        }
    }

    #[test]
    fn control_characters_are_found() {
        for control in ["a\nb", "\u{1b}", "\u{85}", "a\u{202e}b", "\u{2066}", "\u{61c}", "\u{200f}"] {
            assert!(has_control(control), "{control:?}");
        }
        for plain in ["", "a b~", "ä鍵🔒", "a\u{200d}b", "\u{feff}", "\u{2028}"] {
            assert!(!has_control(plain), "{plain:?}");
        }
    }
}
