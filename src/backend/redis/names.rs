//! Names on the server.
//!
//! The name of a lock's main key is the prefix and the user's key. Its other keys, the *side keys*, are named `{tag}%kind:` and then
//! the main name. All keys of a lock have to be in one slot of a cluster, and the slot is the hash of the text between the first
//! `{` of a name and the first `}` after it, or of the whole name if there is no such text. So the tag is the one in the main name,
//! or else the smallest number that hashes to the same slot; braces around the main name would not work for `a}b` or `{}x`.

use std::sync::{Arc, OnceLock};

use crate::backend::{BackendError, ErrorKind, Result};

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16384;

/// The names of one lock.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    /// The main key.
    pub(super) lock: String,
    /// The waiters and the ears.
    pub(super) queue: String,
    pub(super) readers: String,
    /// The slot of all in a cluster.
    pub(super) slot: u16,
}

impl Name {
    /// The keys, in the order in which the scripts expect them: one of each lock, then the next of each.
    pub(super) const KEYS: [fn(&Self) -> &str; 3] = [|name| &name.queue, |name| &name.lock, |name| &name.readers];

    fn new(lock: String) -> Self {
        let slot = slot_of(&lock);
        let side = match tag(&lock) {
            Some(tag) => side_of(tag),
            None => side_of_slot(slot),
        };
        let key = |kind| [&*side, kind, &lock].concat();
        Self { queue: key("q2:"), readers: key("r2:"), slot, lock }
    }
}

/// The keys that locks have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommonKeys {
    /// The last epoch.
    pub(super) clock: String,
    /// The lives of the managers.
    pub(super) lives: String,
    /// The tombstones of one manager.
    pub(super) gone: String,
}

/// The names of one manager, with its prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// Returns the names of a key's lock.
    ///
    /// # Errors
    ///
    /// [`Refused`](ErrorKind::Refused) without a prefix if the key has the form of a side key.
    pub(super) fn of(&self, key: &str) -> Result<Arc<Name>> {
        let lock = [&self.prefix, key].concat();
        // With a prefix, which does not begin with a brace, no lock has such a name.
        if is_side_key(&lock) {
            let reason = format!("without a prefix, {key:?} would be a name that leasehold keeps for itself on redis");
            return Err(BackendError::new(ErrorKind::Refused, reason));
        }
        Ok(Arc::new(Name::new(lock)))
    }

    /// The keys that all locks with the prefix have in common, for calls of one manager.
    pub(super) fn common(&self, manager: u64) -> CommonKeys {
        self.common_beside(&side(&self.prefix), manager)
    }

    /// The same of the locks in one slot of a cluster.
    pub(super) fn common_in(&self, slot: u16, manager: u64) -> CommonKeys {
        self.common_beside(&side_of_slot(slot), manager)
    }

    fn common_beside(&self, side: &str, manager: u64) -> CommonKeys {
        let key = |kind| [side, kind, &self.prefix].concat();
        let gone = format!("{}{manager:016x}", key("gone:"));
        CommonKeys { clock: key("clock:"), lives: key("lives:"), gone }
    }

    /// The prefix of the managers' channels: in a cluster, those of the messages that this node sends.
    pub(super) fn channels(&self, node: Option<&str>) -> String {
        match node {
            None => format!("{}%wake:", self.prefix),
            Some(node) => format!("{}%wake:{node}:", self.prefix),
        }
    }

    #[cfg(feature = "cli")]
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The pattern of all names of locks whose keys begin with `start`.
    pub(super) fn pattern(&self, start: &str) -> String {
        let mut pattern = String::new();
        for letter in self.prefix.chars().chain(start.chars()) {
            if matches!(letter, '*' | '?' | '[' | ']' | '^' | '\\') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern.push('*');
        pattern
    }

    /// The user's key, if this is the main name of a lock.
    pub(super) fn key<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.prefix).filter(|key| !key.is_empty() && !is_side_key(name))
    }
}

/// The prefix of the side keys of a name: `{tag}%`.
pub(crate) fn side(name: &str) -> String {
    match tag(name) {
        Some(tag) => side_of(tag),
        None => side_of_slot(slot(name.as_bytes())),
    }
}

fn side_of(tag: &str) -> String {
    ["{", tag, "}%"].concat()
}

fn side_of_slot(slot: u16) -> String {
    side_of(&smallest_tag(slot).to_string())
}

fn is_side_key(name: &str) -> bool {
    name.starts_with('{') && name.split_once('}').is_some_and(|(_, rest)| rest.starts_with('%'))
}

/// The part of a name that is hashed instead of the whole, if there is one.
fn tag(name: &str) -> Option<&str> {
    let (_, rest) = name.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    Some(tag).filter(|tag| !tag.is_empty())
}

/// The slot of a name.
fn slot_of(name: &str) -> u16 {
    slot(tag(name).unwrap_or(name).as_bytes())
}

fn slot(hashed: &[u8]) -> u16 {
    crc16(hashed) % SLOTS
}

/// The smallest number whose digits hash to this slot.
fn smallest_tag(slot: u16) -> u32 {
    static TAGS: OnceLock<Vec<u32>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let mut tags = vec![u32::MAX; usize::from(SLOTS)];
        let mut left = tags.len();
        for number in 0.. {
            let tag = &mut tags[usize::from(self::slot(number.to_string().as_bytes()))];
            if *tag == u32::MAX {
                *tag = number;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        tags
    });
    tags[usize::from(slot)]
}

/// CRC-16/XMODEM, as in Redis Cluster's specification.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = ((byte as u16) << 8, 0);
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        assert_eq!(slot_of("foo{}{bar}"), slot(b"foo{}{bar}"));
        assert_eq!(slot_of("foo{{bar}}zap"), slot(b"{bar"));
    }

    #[test]
    fn side_keys_are_in_the_slot_of_their_lock_with_any_braces() {
        for prefix in ["lock:", "", "a{b}c", "x}{", "p{"] {
            let names = Names::new(prefix.into());
            for key in ["k", "a}b", "{}x", "{}", "{", "}", "}{", "{u}:q", "{{u}}", "a{b}c{d}", "ä{鍵}", " ", "{%}"] {
                let name = names.of(key).unwrap();
                let CommonKeys { clock, lives, gone } = names.common_in(name.slot, 7);
                assert_eq!(name.slot, slot_of(&name.lock));
                for side in [&name.queue, &name.readers, &clock, &lives, &gone] {
                    assert_eq!(slot_of(side), name.slot, "{side}");
                    assert!(is_side_key(side) && names.key(side).is_none(), "{side}");
                }
                assert_eq!(names.key(&name.lock), Some(key));
            }
        }
    }

    #[test]
    fn no_key_is_a_side_key_of_another() {
        let lock = Names::new("lock:".into()).of("{u}").unwrap();
        let side = lock.queue.clone();
        assert_eq!(side, "{u}%q2:lock:{u}");
        assert!(Names::new("lock:".into()).of(&side).is_ok(), "with a prefix it is another name");
        let bare = Names::new(String::new());
        assert_eq!(bare.of(&side).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(bare.of("{u}%").unwrap_err().kind(), ErrorKind::Refused);
        assert!(bare.of("{u}:queue").is_ok() && bare.of("u}%queue:x").is_ok());
    }

    #[test]
    fn what_locks_have_in_common_is_in_each_slot_of_a_cluster_and_once_on_a_server() {
        let names = Names::new("lock:".into());
        let all: std::collections::HashSet<_> = (0..SLOTS)
            .map(|slot| {
                let common = names.common_in(slot, 7);
                assert!(
                    [&common.clock, &common.lives, &common.gone].iter().all(|key| slot_of(key) == slot),
                    "{common:?}"
                );
                common.clock
            })
            .collect();
        assert_eq!(all.len(), usize::from(SLOTS));
        assert_eq!(names.common(7), names.common_in(slot_of("lock:"), 7));
    }

    #[test]
    fn patterns_mean_what_the_text_says() {
        assert_eq!(Names::new("lock:".into()).pattern("a*[b]?\\^"), r"lock:a\*\[b\]\?\\\^*");
    }
}
