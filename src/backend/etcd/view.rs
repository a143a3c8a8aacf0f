//! What a lock's directory contains, kept up to date by the changes that a watch reports. No I/O.

use std::collections::HashSet;

use super::claims::Claims;
use super::names::Directory;
use super::queue::{Context, Entry, holders, info};
use super::value;
use super::watch::hub::Change;
use crate::info::LockInfo;

/// The claims of a key, as of a revision.
#[derive(Debug)]
pub(super) struct View {
    directory: Directory,
    /// Oldest first, with the authors of those that wait as well: they may hold the key later.
    entries: Vec<Entry>,
    revision: i64,
    /// The create revisions of the claims that never waited.
    at_once: HashSet<i64>,
}

impl View {
    /// Creates the view of what was read at a revision.
    pub(super) fn new(directory: Directory, entries: Vec<Entry>, revision: i64, at_once: HashSet<i64>) -> Self {
        Self { directory, entries, revision, at_once }
    }

    /// Applies changes in the directory: those after the revision of the read. Returns whether they are about the holders.
    pub(super) fn apply(&mut self, changes: &[Change]) -> bool {
        let (before, held) = (self.revision, self.held());
        let mut is_about_holder = false;
        for change in changes.iter().filter(|change| change.at > before) {
            self.revision = self.revision.max(change.at);
            match &change.put {
                Some(put) => match self.entries.iter().position(|entry| entry.is(put)) {
                    // A touch, or another value.
                    Some(place) => {
                        let known = &mut self.entries[place];
                        let author = value::author(&known.child, &put.value);
                        if known.author != author {
                            known.author = author;
                            is_about_holder |= place < held.len();
                        }
                    }
                    None => {
                        let mut entry = Entry::new(put, self.directory.below(&put.key));
                        entry.author = value::author(&entry.child, &put.value);
                        if self.entries.is_empty() {
                            self.at_once.insert(entry.create);
                        }
                        self.entries.push(entry);
                    }
                },
                None => self.entries.retain(|entry| entry.name != *change.name),
            }
        }
        is_about_holder || held != self.held()
    }

    /// Returns the create revisions of the claims that hold the key.
    fn held(&self) -> Vec<i64> {
        self.entries.iter().take(holders(&self.entries)).map(|entry| entry.create).collect()
    }

    /// Returns the state of the key. `claims` are those of this process, for their tokens.
    pub(super) fn state(&mut self, key: &str, claims: &Claims) -> Option<LockInfo> {
        let created: HashSet<_> = self.held().into_iter().collect();
        self.at_once.retain(|create| created.contains(create));
        let at_once = self.at_once.clone();
        info(key, &self.entries, &Context { proofs: claims.proofs(&created), at_once, ..Context::default() })
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbKeyValue;

    use super::super::kind::Kind;
    use super::super::names::{Name, Names};
    use super::*;
    use crate::backend::LeaseId;

    fn directory() -> Directory {
        Names::new("p/".into()).directory("k")
    }

    fn name(kind: Kind, number: u64) -> Name {
        directory().claim(kind, LeaseId(1), number)
    }

    /// The claim with this number, put at the revision of the same number and changed at `at`.
    fn put(kind: Kind, number: u64, at: i64) -> Change {
        let create_revision = i64::try_from(number).unwrap();
        let value = br#"{"v":1,"name":"n","host":"h","pid":1,"manager":"m","mode":"shared","asked_at":1}"#.to_vec();
        let name = name(kind, number);
        let put = PbKeyValue { key: name.to_vec(), create_revision, value, ..PbKeyValue::default() };
        Change { name, at, put: Some(put) }
    }

    fn deleted(kind: Kind, number: u64, at: i64) -> Change {
        Change { name: name(kind, number), at, put: None }
    }

    fn held(view: &mut View) -> (usize, usize) {
        let state = view.state("k", &Claims::default());
        state.map_or((0, 0), |state| (state.holders.len(), state.waiters))
    }

    #[test]
    fn changes_are_reported_if_they_are_about_holders_and_newer_than_the_read() {
        use Kind::{Exclusive, Shared, Slot};
        let mut view = View::new(directory(), Vec::new(), 4, HashSet::new());
        assert!(!view.apply(&[put(Exclusive, 3, 3), deleted(Exclusive, 3, 4)]), "read already");
        for (change, is_about_holder, state) in [
            (put(Slot(2), 5, 5), true, (1, 0)),
            (put(Slot(2), 6, 6), true, (2, 0)),
            (put(Slot(2), 7, 7), false, (2, 1)),
            (put(Exclusive, 8, 8), false, (2, 2)),
            (put(Slot(2), 6, 9), false, (2, 2)),
            (deleted(Slot(2), 5, 10), true, (2, 1)),
            (deleted(Exclusive, 8, 11), false, (2, 0)),
            (deleted(Exclusive, 8, 11), false, (2, 0)),
            (put(Shared, 12, 12), false, (2, 1)),
            (deleted(Slot(2), 6, 13), true, (1, 1)),
            (deleted(Slot(2), 7, 14), true, (1, 0)),
            (deleted(Shared, 12, 15), true, (0, 0)),
        ] {
            assert_eq!(view.apply(std::slice::from_ref(&change)), is_about_holder, "{change:?}");
            assert_eq!(held(&mut view), state, "{change:?}");
        }
    }

    #[test]
    fn another_value_of_a_holder_is_a_change_and_one_of_a_waiter_is_shown_when_it_holds() {
        let mut view = View::new(directory(), Vec::new(), 4, HashSet::new());
        view.apply(&[put(Kind::Exclusive, 5, 5), put(Kind::Exclusive, 6, 6)]);
        let foreign = |number, at| {
            let mut change = put(Kind::Exclusive, number, at);
            change.put.iter_mut().for_each(|put| put.value = b"theirs".to_vec());
            change
        };
        assert!(!view.apply(&[foreign(6, 7)]));
        assert!(view.apply(&[foreign(5, 8)]));
        assert!(view.state("k", &Claims::default()).unwrap().foreign);
        assert!(view.apply(&[deleted(Kind::Exclusive, 5, 9)]));
        assert!(view.state("k", &Claims::default()).unwrap().foreign);
    }
}
