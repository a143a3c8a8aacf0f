//! The names of files: keys, percent-encoded, and leases.

use std::fmt::Write;

use super::ticket::{Place, SLOTS};
use crate::backend::LeaseId;

/// The longest name of a key that is not hashed; a file's name has at most 255 bytes.
const MAX_BYTES: usize = 200;

/// What the name of a hashed key begins with. Encoded keys never do.
const HASHED: char = '~';

/// Where the key is in the file of a hashed one.
pub(super) const KEY_OFFSET: u64 = 16;

/// A file's size from which on claims of the key may be void by a mark.
pub(super) const MARKED_SIZE: u64 = 1 << 20;

/// The name of a key's file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyName {
    pub(super) file: String,
    /// The key to be written into the file, if the name does not have it.
    pub(super) inside: Option<String>,
}

impl KeyName {
    pub(super) fn new(key: &str) -> Self {
        let mut file = String::with_capacity(key.len());
        for byte in key.bytes() {
            let is_plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && !file.is_empty());
            if is_plain {
                file.push(char::from(byte));
            } else {
                // Writing to a text cannot fail.
                let _ = write!(file, "%{byte:02X}");
            }
        }
        if file.len() <= MAX_BYTES {
            return Self { file, inside: None };
        }
        Self { file: format!("{HASHED}{:032x}", hash(key)), inside: Some(key.to_owned()) }
    }
}

/// The key of a file's name; `None` if the name is hashed, or none of ours.
pub(super) fn key_of(file: &str) -> Option<String> {
    let key = percent_encoding::percent_decode_str(file).decode_utf8().ok()?.into_owned();
    // Other spellings of a name are other files.
    (KeyName::new(&key) == KeyName { file: file.to_owned(), inside: None }).then_some(key)
}

/// Whether a file's name is that of a hashed key.
pub(super) fn is_hashed(file: &str) -> bool {
    file.starts_with(HASHED)
}

/// FNV-1a with 128 bits. It must be the same in every version, and the file has the key to compare with.
fn hash(key: &str) -> u128 {
    key.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// What follows the name of a lease that others have found expired.
const OUT: &str = ".out";
/// What follows the name of a lease for the file that describes it.
const RECORD: &str = ".json";

/// The name of a lease: its slot and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LeaseName {
    pub(super) slot: u16,
    pub(super) id: LeaseId,
}

impl LeaseName {
    pub(super) fn life(&self) -> String {
        format!("{}.{:016x}", self.slot, self.id.0)
    }

    pub(super) fn out(&self) -> String {
        self.life() + OUT
    }

    pub(super) fn record(&self) -> String {
        self.life() + RECORD
    }

    /// The name of the mark that voids one of its claims.
    pub(super) fn mark(&self, inode: u64, place: Place) -> String {
        format!("{}.{inode}.{}", self.life(), place.byte())
    }

    fn parse(text: &str) -> Option<Self> {
        let (slot, id) = text.split_once('.')?;
        let (slot, id) = (slot.parse().ok().filter(|slot| *slot < SLOTS)?, u64::from_str_radix(id, 16).ok()?);
        let name = Self { slot, id: LeaseId(id) };
        (name.life() == text).then_some(name)
    }

    /// The lease that a file in the folder of leases belongs to.
    pub(super) fn of_file(file: &str) -> Option<Self> {
        Self::parse(file.strip_suffix(OUT).or_else(|| file.strip_suffix(RECORD)).unwrap_or(file))
    }

    /// The lease that a mark belongs to.
    pub(super) fn of_mark(file: &str) -> Option<Self> {
        let (rest, _byte) = file.rsplit_once('.')?;
        let (name, _inode) = rest.rsplit_once('.')?;
        Self::parse(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_keys_have_different_names_that_no_path_escapes() {
        let mut names = std::collections::HashSet::new();
        for key in ["a", "a/b", "a%2Fb", ".", "..", "../x", ".hidden", "a.b", "ä", "a b", "~a", "A", "%", "a\u{2028}"]
        {
            let name = KeyName::new(key);
            assert!(names.insert(name.file.clone()), "{key}");
            assert!(!name.file.contains('/') && !name.file.starts_with(['.', '~']), "{}", name.file);
            assert_eq!(key_of(&name.file).as_deref(), Some(key));
        }
        assert_eq!(KeyName::new("orders/42").file, "orders%2F42");
        assert_eq!((key_of("a%2fb"), key_of("%61"), key_of("~00"), key_of("%FF")), (None, None, None, None));
    }

    #[test]
    fn long_keys_are_hashed() {
        let (long, other) = ("x".repeat(1024), "x".repeat(1023));
        let name = KeyName::new(&long);
        assert!(is_hashed(&name.file) && name.file.len() == 33 && name.inside.as_ref() == Some(&long));
        assert_ne!(name.file, KeyName::new(&other).file);
        assert_eq!(KeyName::new(&"x".repeat(200)).inside, None);
        // Written down: another version must find the same file.
        assert_eq!(format!("{:032x}", hash("a")), "d228cb696f1a8caf78912b704e4a8964");
    }

    #[test]
    fn names_of_leases_are_read_back() {
        let name = LeaseName { slot: 17, id: LeaseId(0xab) };
        assert_eq!(name.life(), "17.00000000000000ab");
        for file in [name.life(), name.out(), name.record()] {
            assert_eq!(LeaseName::of_file(&file), Some(name));
        }
        assert_eq!(LeaseName::of_mark(&name.mark(5, Place::at(9))), Some(name));
        for other in ["", "17", "17.", "x.00000000000000ab", "017.00000000000000ab", "32767.00000000000000ab", "17.ab"]
        {
            assert_eq!(LeaseName::of_file(other), None, "{other}");
        }
    }
}
