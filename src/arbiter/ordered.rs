//! [`Ordered`]: a map whose keys are mostly added at its ends. The usual single entry needs no allocation.

use std::collections::VecDeque;

/// A map in the order of its keys. Each call costs O(log n), amortized, if keys are added before or after all others.
#[derive(Debug)]
pub(super) struct Ordered<K, V> {
    first: Option<(K, V)>,
    /// The others, with gaps where one was removed.
    rest: VecDeque<(K, Option<V>)>,
    len: usize,
}

impl<K, V> Default for Ordered<K, V> {
    fn default() -> Self {
        Self { first: None, rest: VecDeque::new(), len: 0 }
    }
}

impl<K: Copy + Ord, V> Ordered<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry with a new key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.len += 1;
        match &mut self.first {
            None => self.first = Some((key, value)),
            Some(first) if key < first.0 => {
                let (older_key, older) = std::mem::replace(first, (key, value));
                self.rest.push_front((older_key, Some(older)));
            }
            Some(_) => {
                let place = match self.rest.back() {
                    Some((last, _)) if *last >= key => self.rest.partition_point(|(known, _)| *known < key),
                    _ => self.rest.len(),
                };
                match self.rest.get_mut(place) {
                    // The gap that an earlier entry has left.
                    Some((known, gap)) if *known == key => *gap = Some(value),
                    _ => self.rest.insert(place, (key, Some(value))),
                }
            }
        }
    }

    fn find(&self, key: K) -> Option<usize> {
        self.rest.binary_search_by_key(&key, |(known, _)| *known).ok()
    }

    pub(super) fn get(&self, key: K) -> Option<&V> {
        match &self.first {
            Some((first, value)) if *first == key => Some(value),
            _ => self.rest.get(self.find(key)?)?.1.as_ref(),
        }
    }

    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        if self.first.as_ref().is_some_and(|(first, _)| *first == key) {
            return self.first_mut();
        }
        let place = self.find(key)?;
        self.rest.get_mut(place)?.1.as_mut()
    }

    pub(super) fn first(&self) -> Option<(K, &V)> {
        self.first.as_ref().map(|(key, value)| (*key, value))
    }

    pub(super) fn last(&self) -> Option<K> {
        self.iter().next_back().map(|(key, _)| key)
    }

    pub(super) fn first_mut(&mut self) -> Option<&mut V> {
        self.first.as_mut().map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        if self.rest.is_empty() {
            let (_, value) = self.first.take_if(|(first, _)| *first == key)?;
            self.len = 0;
            return Some(value);
        }
        let removed = match self.first.take() {
            Some((first, value)) if first == key => {
                while let Some((key, value)) = self.rest.pop_front() {
                    if let Some(value) = value {
                        self.first = Some((key, value));
                        break;
                    }
                }
                Some(value)
            }
            first => {
                self.first = first;
                let place = self.find(key)?;
                self.rest.get_mut(place)?.1.take()
            }
        }?;
        self.len -= 1;
        // Gaps are few compared with the entries, and so is unused memory.
        if self.rest.len() > 2 * self.len + 8 {
            self.rest.retain(|(_, value)| value.is_some());
        }
        if self.rest.capacity() > 4 * self.len + 64 {
            self.rest.shrink_to(2 * self.len);
        }
        Some(removed)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (K, &V)> {
        let rest = self.rest.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?)));
        self.first.iter().map(|(key, value)| (*key, value)).chain(rest)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let rest = self.rest.iter_mut().filter_map(|(_, value)| value.as_mut());
        self.first.iter_mut().map(|(_, value)| value).chain(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    use rand::RngExt;

    use super::*;
    use crate::support::walk::walk;

    #[test]
    fn it_does_what_a_tree_does() {
        walk(200, |rng| {
            let (mut ordered, mut tree) = (Ordered::<i64, u32>::default(), BTreeMap::new());
            let (mut first, mut last) = (0, 0);
            for step in 0..400_u32 {
                match rng.random_range(0..10) {
                    0 => {
                        // Again, between others.
                        let key = rng.random_range(first..=last);
                        if let Entry::Vacant(vacant) = tree.entry(key) {
                            ordered.insert(key, step);
                            vacant.insert(step);
                        }
                    }
                    1..4 => {
                        last += 1;
                        ordered.insert(last, step);
                        tree.insert(last, step);
                    }
                    4 => {
                        first -= 1;
                        ordered.insert(first, step);
                        tree.insert(first, step);
                    }
                    _ => {
                        let key = rng.random_range(first..=last);
                        assert_eq!(ordered.get(key), tree.get(&key));
                        assert_eq!(ordered.get_mut(key), tree.get_mut(&key));
                        assert_eq!(ordered.remove(key), tree.remove(&key));
                    }
                }
                assert_eq!(ordered.len(), tree.len());
                assert_eq!(ordered.first(), tree.first_key_value().map(|(key, value)| (*key, value)));
                assert_eq!(ordered.last(), tree.last_key_value().map(|(key, _)| *key));
                assert!(ordered.iter().eq(tree.iter().map(|(key, value)| (*key, value))));
                assert!(ordered.rest.len() <= 2 * ordered.len() + 8);
            }
        });
    }
}
