//! Validation of keys.

use crate::display::has_control;
use crate::error::LockError;

/// The maximum length of a key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 1024;

/// Checks that `key` is 1 to 1,024 bytes of UTF-8 without control characters or bidirectional control characters.
pub(crate) fn check(key: &str) -> Result<(), LockError> {
    let reason = if key.is_empty() {
        "it is empty"
    } else if key.len() > MAX_KEY_BYTES {
        "it is longer than 1,024 bytes"
    } else if has_control(key) {
        "it contains a control character"
    } else {
        return Ok(());
    };
    Err(LockError::InvalidKey { key: key.into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_kinds() {
        let longest = "k".repeat(MAX_KEY_BYTES);
        for good in ["a", "a/b", "a_info", "%2F", "{}", "a b", "schlüssel", "鍵", "a}b", longest.as_str()] {
            assert!(check(good).is_ok(), "{good:?}");
        }
        let too_long = "k".repeat(MAX_KEY_BYTES + 1);
        for bad in ["", "a\nb", "\0", "a\u{7f}", "a\u{85}b", "a\u{202e}b", "\u{2066}", "\u{61c}", too_long.as_str()] {
            let error = check(bad).unwrap_err();
            assert_eq!(error.code(), "INVALID_KEY", "{bad:?}");
            assert_eq!(error.key(), Some(bad));
        }
    }
}
