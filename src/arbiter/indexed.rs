//! [`Indexed`]: entries in order, which are also found by their owners.

use std::collections::HashMap;

use super::ordered::Ordered;
use crate::owner::{Origin, Owner};

/// What belongs to an owner.
pub(super) trait Owned {
    fn owner(&self) -> &Owner;
}

/// Each call costs O(log n) unless its documentation says otherwise.
#[derive(Debug)]
pub(super) struct Indexed<K, V> {
    entries: Ordered<K, V>,
    /// `None` while there are less than two entries: a single one is found without it.
    index: Option<Box<Index<K>>>,
}

/// Not hardened: the numbers of owners come from this process's allocators and counters.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[derive(Debug)]
struct Index<K> {
    by_owner: Map<Owner, Ordered<K, ()>>,
    /// The number of entries whose owners stand for a task or thread.
    by_origin: Map<Origin, usize>,
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self { by_owner: Map::default(), by_origin: Map::default() }
    }
}

impl<K, V> Default for Indexed<K, V> {
    fn default() -> Self {
        Self { entries: Ordered::default(), index: None }
    }
}

impl<K: Copy + Ord, V: Owned> Indexed<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds an entry with a new key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.index.is_none()
            && let Some((first, known)) = self.entries.first()
        {
            self.index.get_or_insert_default().add(first, known.owner());
        }
        if let Some(index) = &mut self.index {
            index.add(key, value.owner());
        }
        self.entries.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        let value = self.entries.remove(key)?;
        if self.entries.len() < 2 {
            self.index = None;
        } else if let Some(index) = &mut self.index {
            index.remove(key, value.owner());
        }
        Some(value)
    }

    pub(super) fn get(&self, key: K) -> Option<&V> {
        self.entries.get(key)
    }

    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    pub(super) fn first(&self) -> Option<(K, &V)> {
        self.entries.first()
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut V> {
        self.entries.first_mut()
    }

    /// The last entry of this owner.
    pub(super) fn last_of(&self, owner: &Owner) -> Option<(K, &V)> {
        match &self.index {
            None => self.entries.first().filter(|(_, value)| value.owner() == owner),
            Some(index) => {
                let key = index.by_owner.get(owner)?.last()?;
                Some((key, self.entries.get(key)?))
            }
        }
    }

    /// The keys of this owner's entries, in order.
    pub(super) fn of(&self, owner: &Owner) -> Vec<K> {
        match &self.index {
            None => self.last_of(owner).map(|(key, _)| key).into_iter().collect(),
            Some(index) => index.by_owner.get(owner).into_iter().flat_map(Ordered::iter).map(|(key, ())| key).collect(),
        }
    }

    /// The number of entries whose owners stand for the task or thread of this one.
    pub(super) fn with_origin_of(&self, owner: &Owner) -> usize {
        match (owner.origin(), &self.index) {
            (None, _) => 0,
            (origin, None) => {
                usize::from(self.entries.first().is_some_and(|(_, value)| value.owner().origin() == origin))
            }
            (Some(origin), Some(index)) => index.by_origin.get(&origin).copied().unwrap_or_default(),
        }
    }

    /// In order. O(n).
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (K, &V)> {
        self.entries.iter()
    }

    /// In order. O(n).
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut()
    }

    /// Asserts the invariants that hold between any two calls.
    #[cfg(test)]
    pub(super) fn check(&self)
    where
        K: std::fmt::Debug,
    {
        let Some(index) = &self.index else {
            assert!(self.len() < 2, "{} entries without an index", self.len());
            return;
        };
        assert!(self.len() > 1, "an index of {} entries", self.len());
        let (mut by_owner, mut by_origin) = (Map::<_, Vec<_>>::default(), Map::default());
        for (key, value) in self.iter() {
            by_owner.entry(value.owner().clone()).or_default().push(key);
            if let Some(origin) = value.owner().origin() {
                *by_origin.entry(origin).or_default() += 1;
            }
        }
        let known = index.by_owner.iter();
        let known: Map<_, Vec<_>> =
            known.map(|(owner, keys)| (owner.clone(), keys.iter().map(|(key, ())| key).collect())).collect();
        assert_eq!(known, by_owner);
        assert_eq!(index.by_origin, by_origin);
    }
}

impl<K: Copy + Ord> Index<K> {
    fn add(&mut self, key: K, owner: &Owner) {
        if let Some(origin) = owner.origin() {
            *self.by_origin.entry(origin).or_default() += 1;
        }
        // With the owner as it is now, not as it was in an earlier entry, which may be its last trace.
        let mut keys = self.by_owner.remove(owner).unwrap_or_default();
        keys.insert(key, ());
        self.by_owner.insert(owner.clone(), keys);
    }

    fn remove(&mut self, key: K, owner: &Owner) {
        if let Some(keys) = self.by_owner.get_mut(owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_owner.remove(owner);
            }
        }
        if let Some(origin) = owner.origin()
            && let Some(count) = self.by_origin.get_mut(&origin)
        {
            *count -= 1;
            if *count == 0 {
                self.by_origin.remove(&origin);
            }
        }
    }
}
