//! Slots of a semaphore: which claims hold one, and what the others wait for.
//!
//! A slot is the claim at some place among the slots of its directory, oldest first. It *fits* if each slot up to it is at a place within
//! its own limit, and it holds the key if it fits and no claim of another kind is ahead. Places only decrease, so a claim that fits always
//! will.
//!
//! Any of the holders may leave, so a waiter that watched only the claim just ahead would often wait for the wrong one; and if all
//! watched all slots, each departure would wake everyone. So the first waiter watches all slots, and each of the others the one just
//! ahead, which *touches* its claim (puts it once more) when it has entered after waiting: then the next one is the first waiter, or
//! holds a slot as well.

use etcd_client::proto::PbKeyValue;
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp};

use super::kind::Kind;
use super::names::{Directory, Name, signed};
use super::position::{Ahead, ClaimKey, Freshness, Position, SeenClaim, keys_only};
use crate::backend::LeaseId;

/// Returns the number of slots that a look reads for claims with this limit: one more than can fit.
fn width(limit: u32) -> i64 {
    i64::from(limit) + 1
}

fn oldest(directory: &Directory, limit: i64, options: GetOptions) -> TxnOp {
    let (start, end) = directory.slots();
    let options = options.with_sort(SortTarget::Create, SortOrder::Ascend).with_limit(limit);
    TxnOp::get(start, Some(options.with_range(end)))
}

fn newest((start, end): (Vec<u8>, Vec<u8>), limit: i64, options: GetOptions) -> TxnOp {
    let options = options.with_sort(SortTarget::Create, SortOrder::Descend).with_limit(limit);
    TxnOp::get(start, Some(options.with_range(end)))
}

/// Reads what decides on a slot: the oldest slots, the newest two claims, and the newest ones of other kinds.
///
/// ⚠ In the transaction that puts the claim there are no newer claims; later reads have its create revision as their maximum.
fn look(directory: &Directory, limit: u32, create: Option<i64>, freshness: Freshness) -> Vec<TxnOp> {
    let options = || match create {
        Some(create) => keys_only(freshness).with_max_create_revision(create),
        None => keys_only(freshness),
    };
    let all = (directory.start(), directory.end());
    let others = directory.blocking(Kind::Slot(limit)).into_iter().map(|range| newest(range, 1, options()));
    [oldest(directory, width(limit), options()), newest(all, 2, options())].into_iter().chain(others).collect()
}

/// Reads the position of a slot that was put before, and whether there are slots behind it.
pub(super) fn read_position(directory: &Directory, own: &ClaimKey, limit: u32, freshness: Freshness) -> Txn {
    let mut reads = look(directory, limit, Some(own.create), freshness);
    reads.push(newest(directory.slots(), 1, keys_only(freshness)));
    Txn::new().and_then(reads)
}

/// Reads the position of a slot in the transaction that puts it.
pub(super) fn ahead(directory: &Directory, limit: u32) -> Vec<TxnOp> {
    look(directory, limit, None, Freshness::Linearizable)
}

/// Returns the conditions that a new slot fits, where that was so while this was the newest slot.
pub(super) fn has_room(directory: &Directory, newest: i64) -> Compare {
    let (start, end) = directory.slots();
    // An empty range compares as zero.
    Compare::create_revision(start, CompareOp::Less, newest + 1).with_range(end)
}

/// Reads what decides whether a new slot fits.
pub(super) fn look_for_room(directory: &Directory, limit: u32) -> Vec<TxnOp> {
    let options = || keys_only(Freshness::Linearizable);
    let others = directory.blocking(Kind::Slot(limit)).into_iter().map(|range| newest(range, 1, options()));
    std::iter::once(oldest(directory, i64::from(limit), options())).chain(others).collect()
}

/// Puts a claim once more, as it is, for the waiter behind it.
///
/// ⚠ Without the lease it would never expire.
pub(super) fn touch(claim: &ClaimKey, lease: LeaseId) -> Txn {
    let as_it_is = PutOptions::new().with_ignore_value().with_lease(signed(lease));
    Txn::new().when([claim.exists()]).and_then([TxnOp::put(&*claim.name, "", Some(as_it_is))])
}

/// Whether there is room for a new slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is, while this is the create revision of the newest slot, or zero.
    After(i64),
    /// This claim is in the way.
    None(Name),
}

/// Returns the number of the oldest slots that fit. What lies among the slots and is none never fits.
fn fitting(directory: &Directory, slots: &[PbKeyValue]) -> usize {
    let fits = |(place, slot): &(usize, &PbKeyValue)| {
        let limit = directory.kind(&slot.key).limit().unwrap_or(0);
        u32::try_from(*place).is_ok_and(|before| before < limit)
    };
    slots.iter().enumerate().take_while(fits).count()
}

impl Room {
    /// Reads the answer to [`look_for_room`]. `None` if it makes no sense.
    pub(super) fn read(directory: &Directory, limit: u32, found: &[Vec<PbKeyValue>]) -> Option<Self> {
        let [slots, others @ ..] = found else { return None };
        if others.len() != 2 || !slots.is_sorted_by_key(|slot| slot.create_revision) {
            return None;
        }
        if let Some(other) = others.iter().flatten().next() {
            return Some(Self::None(other.key.as_slice().into()));
        }
        let fitting = fitting(directory, slots);
        let is_full = fitting < slots.len() || u32::try_from(fitting).map_or(true, |fitting| fitting >= limit);
        Some(match slots.last() {
            Some(last) if is_full => Self::None(last.key.as_slice().into()),
            last => Self::After(last.map_or(0, |last| last.create_revision)),
        })
    }
}

/// Reads the position of a slot from the answer to a look for claims with this limit, its own or a greater one. `None` if the answer makes
/// no sense.
pub(super) fn position(
    directory: &Directory,
    own: &ClaimKey,
    limit: u32,
    found: &[Vec<PbKeyValue>],
) -> Option<Position> {
    let [slots, newest, before, after, behind @ ..] = found else { return None };
    let is_own = |found: &PbKeyValue| *found.key == *own.name && found.create_revision == own.create;
    let is_ahead = |found: &PbKeyValue| directory.contains(&found.key) && found.create_revision < own.create;
    if !newest.iter().any(is_own) {
        return Some(Position::Missing);
    }
    let all = || slots.iter().chain(newest).chain(before).chain(after);
    let makes_sense = all().all(|found| is_own(found) || is_ahead(found))
        && slots.iter().all(|slot| directory.is_slot(&slot.key))
        && slots.is_sorted_by_key(|slot| slot.create_revision);
    if !makes_sense {
        return None;
    }
    let key = |found: &PbKeyValue| ClaimKey { name: found.key.as_slice().into(), create: found.create_revision };
    let waits_for =
        |found: &PbKeyValue| Some(Position::Behind(Ahead::Claim(SeenClaim { claim: key(found), is_waiting: false })));
    let fitting = &slots[..fitting(directory, slots)];
    let other = before.iter().chain(after).max_by_key(|found| found.create_revision);
    if fitting.iter().any(is_own) {
        let is_followed = behind.iter().flatten().any(|found| found.create_revision > own.create);
        return match other {
            Some(other) => waits_for(other),
            None if is_followed => Some(Position::Followed),
            None => Some(Position::First),
        };
    }
    // Its own place is one too many, so there is a claim ahead.
    let ahead = newest.iter().find(|found| !is_own(found))?;
    if !directory.is_slot(&ahead.key) {
        return waits_for(ahead);
    }
    // ⚠ Deciding in part, with the places of too few slots, would leave it waiting for what has happened already.
    let wider = directory.kind(&ahead.key).limit().filter(|wider| *wider > limit);
    if let Some(limit) = wider {
        return Some(Position::Unclear { limit });
    }
    let place = fitting.iter().position(|slot| slot.key == ahead.key);
    Some(Position::Behind(match (place, other) {
        (Some(place), None) => Ahead::Slots(fitting[..=place].iter().map(|slot| slot.key.as_slice().into()).collect()),
        _ => Ahead::Claim(SeenClaim { claim: key(ahead), is_waiting: true }),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::names::Names;
    use super::*;

    /// A claim of a queue: a slot with its limit, or one of another kind.
    #[derive(Clone, Copy, Debug)]
    enum In {
        Slot(u32),
        Reader,
        Writer,
        Foreign,
    }
    use In::{Foreign, Reader, Slot, Writer};

    fn directory() -> Directory {
        Names::new("p/".into()).directory("k")
    }

    /// The keys of a queue; the n-th has the create revision n + 1.
    fn keys(queue: &[In]) -> Vec<PbKeyValue> {
        let key = |(n, claim): (u64, &In)| {
            let kind = match claim {
                Slot(limit) => Kind::Slot(*limit),
                Reader => Kind::Shared,
                Writer => Kind::Exclusive,
                Foreign => {
                    let key = [directory().slots().0, format!("{n}").into_bytes()].concat();
                    return PbKeyValue { key, create_revision: n as i64 + 1, version: 1, ..PbKeyValue::default() };
                }
            };
            let key = directory().claim(kind, LeaseId(n + 1), 1).to_vec();
            PbKeyValue { key, create_revision: n as i64 + 1, version: 1, ..PbKeyValue::default() }
        };
        (0..).zip(queue).map(key).collect()
    }

    /// What the server finds: the newest up to a limit, oldest first or newest first.
    fn select(
        keys: &[PbKeyValue],
        limit: usize,
        is_in: impl Fn(&PbKeyValue) -> bool,
        is_newest: bool,
    ) -> Vec<PbKeyValue> {
        let mut found: Vec<_> = keys.iter().filter(|key| is_in(key)).cloned().collect();
        if is_newest {
            found.reverse();
        }
        found.truncate(limit);
        found
    }

    /// The position of the n-th claim, a slot, as it is read from a server.
    fn position_of(queue: &[In], n: usize) -> Position {
        let (all, directory) = (keys(queue), directory());
        let (own, up_to) = (&all[n], &all[..=n]);
        let own_key = ClaimKey { name: own.key.as_slice().into(), create: own.create_revision };
        let Kind::Slot(mut limit) = directory.kind(&own.key) else { panic!("no slot") };
        loop {
            let others = directory.blocking(Kind::Slot(limit));
            let [before, after] = &others[..] else { panic!("not two ranges") };
            let inside = |(start, end): &(Vec<u8>, Vec<u8>)| {
                let range = start.clone()..end.clone();
                move |key: &PbKeyValue| range.contains(&key.key)
            };
            let slots = |key: &PbKeyValue| directory.is_slot(&key.key);
            let found = [
                select(up_to, usize::try_from(width(limit)).unwrap(), slots, false),
                select(up_to, 2, |_| true, true),
                select(up_to, 1, inside(before), true),
                select(up_to, 1, inside(after), true),
                select(&all, 1, slots, true),
            ];
            match position(&directory, &own_key, limit, &found).expect("it makes sense") {
                Position::Unclear { limit: wider } if wider > limit => limit = wider,
                position => return position,
            }
        }
    }

    fn waits_for(queue: &[In], n: usize, is_waiting: bool) -> Position {
        let key = &keys(queue)[n];
        let claim = ClaimKey { name: key.key.as_slice().into(), create: key.create_revision };
        Position::Behind(Ahead::Claim(SeenClaim { claim, is_waiting }))
    }

    fn waits_for_slots(queue: &[In], count: usize) -> Position {
        let all = keys(queue);
        let slots = all.iter().filter(|key| directory().is_slot(&key.key)).take(count);
        let names = slots.map(|key| key.key.as_slice().into());
        Position::Behind(Ahead::Slots(names.collect()))
    }

    #[test]
    fn the_position_of_a_slot() {
        let all = |n: u32, count: usize| vec![Slot(n); count];
        let q = all(3, 6);
        assert_eq!(
            [0, 1, 2].map(|n| position_of(&q[..3], n)),
            [Position::Followed, Position::Followed, Position::First]
        );
        assert_eq!(position_of(&q, 3), waits_for_slots(&q, 3), "the first waiter");
        assert_eq!(position_of(&q, 4), waits_for(&q, 3, true));
        assert_eq!(position_of(&q, 5), waits_for(&q, 4, true));
        // Behind claims of other kinds.
        for other in [Writer, Reader] {
            let q = [other, Slot(2), Slot(2), Slot(2)];
            assert_eq!((position_of(&q, 1), position_of(&q, 2)), (waits_for(&q, 0, false), waits_for(&q, 0, false)));
            assert_eq!(position_of(&q, 3), waits_for(&q, 2, true), "the second one has not entered");
            let q = [Slot(1), other, Slot(1), Slot(1), other, Slot(3)];
            assert_eq!(position_of(&q, 0), Position::Followed);
            assert_eq!(position_of(&q, 2), waits_for(&q, 1, false), "its place does not matter before that");
            assert_eq!(position_of(&q, 3), waits_for(&q, 2, true));
            assert_eq!(position_of(&q, 5), waits_for(&q, 4, false));
        }
        // What lies among the slots and is none is never one of two.
        let q = [Foreign, Slot(5), Slot(5)];
        assert_eq!((position_of(&q, 1), position_of(&q, 2)), (waits_for(&q, 0, true), waits_for(&q, 1, true)));
    }

    #[test]
    fn limits_that_differ_are_decided_from_all_places() {
        let q = [Slot(1), Slot(3), Slot(3), Slot(1), Slot(5), Slot(2)];
        assert_eq!([0, 1].map(|n| position_of(&q, n)), [Position::Followed, Position::Followed]);
        // It needs the first four to know that three of them hold.
        assert_eq!(position_of(&q, 3), waits_for_slots(&q, 3), "the first waiter, by its predecessor's limit");
        assert_eq!(position_of(&q, 4), waits_for(&q, 3, true), "it would fit by its own limit");
        assert_eq!(position_of(&q, 5), waits_for(&q, 4, true));
        let q = [Slot(5), Slot(1), Slot(5)];
        assert_eq!((position_of(&q, 1), position_of(&q, 2)), (waits_for_slots(&q, 1), waits_for(&q, 1, true)));
    }

    /// Against the rule itself, in random queues: a claim holds the key if the rule grants it, and every waiter waits for a claim ahead.
    #[test]
    fn positions_agree_with_the_rule() {
        let mut random = 7_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..3000 {
            let queue: Vec<_> = (0..=next(9))
                .map(|_| match next(9) {
                    0 => Writer,
                    1 => Reader,
                    2 => Foreign,
                    _ => Slot(1 + u32::try_from(next(4)).unwrap()),
                })
                .collect();
            // As a queue of claims is granted: the first ones that are slots, each by its own limit.
            let holding =
                queue.iter().zip(0_u32..).take_while(|(claim, before)| matches!(claim, Slot(n) if before < n)).count();
            for (n, _) in queue.iter().enumerate().filter(|(_, claim)| matches!(claim, Slot(_))) {
                let position = position_of(&queue, n);
                let holds = matches!(position, Position::First | Position::Followed);
                assert_eq!(holds, n < holding, "{n} of {queue:?}: {position:?}");
                match position {
                    Position::Behind(Ahead::Claim(ahead)) => {
                        assert!(ahead.claim.create <= n as i64);
                        let is_in = usize::try_from(ahead.claim.create).unwrap() <= holding;
                        assert!(!(ahead.is_waiting && is_in), "{n} of {queue:?} waits for what holds already");
                    }
                    Position::Behind(Ahead::Slots(names)) => {
                        assert_eq!(names.len(), holding, "{n} of {queue:?} waits for other slots than those that hold");
                        assert_eq!(n, holding);
                    }
                    Position::First | Position::Followed => {}
                    position => panic!("{n} of {queue:?}: {position:?}"),
                }
            }
        }
    }

    #[test]
    fn a_look_without_its_own_claim_or_with_a_newer_one_decides_nothing() {
        let all = keys(&[Slot(2), Slot(2), Slot(2)]);
        let own = ClaimKey { name: all[1].key.as_slice().into(), create: 2 };
        let look = |slots: &[PbKeyValue], newest: &[PbKeyValue]| {
            position(&directory(), &own, 2, &[slots.to_vec(), newest.to_vec(), vec![], vec![], vec![]])
        };
        assert_eq!(look(&all[..2], &all[..2]), Some(Position::First));
        assert_eq!(look(&all[..1], &all[..1]), Some(Position::Missing));
        let again = PbKeyValue { create_revision: 9, ..all[1].clone() };
        assert_eq!(look(&[], &[again]), Some(Position::Missing), "an earlier one of its name");
        assert_eq!(look(&all, &all[..2]), None);
        let unsorted = [all[1].clone(), all[0].clone()];
        assert_eq!(look(&unsorted, &all[..2]), None);
        assert_eq!(position(&directory(), &own, 2, &[vec![], vec![]]), None);
    }

    #[test]
    fn room_for_one_more() {
        let room = |queue: &[In], limit: u32| {
            let (all, directory) = (keys(queue), directory());
            let slots = |key: &PbKeyValue| directory.is_slot(&key.key);
            let others = |key: &PbKeyValue| !directory.is_slot(&key.key);
            let found = [select(&all, limit as usize, slots, false), select(&all, 1, others, true), vec![]];
            Room::read(&directory, limit, &found).unwrap()
        };
        assert_eq!(room(&[], 1), Room::After(0));
        assert_eq!(room(&[Slot(3), Slot(3)], 3), Room::After(2));
        for (full, limit) in [
            (&[Slot(3), Slot(3)][..], 2),
            (&[Slot(1), Slot(1)], 3),
            (&[Foreign], 3),
            (&[Slot(3), Writer], 3),
            (&[Reader], 3),
        ] {
            assert!(matches!(room(full, limit), Room::None(_)), "{full:?}");
        }
        assert_eq!(Room::read(&directory(), 1, &[vec![]]), None);
    }
}
