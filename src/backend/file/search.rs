//! Searches in a queue, of which one can only ask for *some* claim in a range.

use std::io;
use std::ops::Range;

use super::locks::Found;
use crate::info::Mode;

/// The first window: 64 microseconds of tickets.
const WINDOW: i64 = 64 << 15;

/// Returns the nearest claim in the range from its end down, by windows that grow and then by bisection: most claims are recent.
pub(super) fn nearest_below(
    range: Range<i64>,
    mut query: impl FnMut(Range<i64>) -> io::Result<Option<Found>>,
) -> io::Result<Option<Found>> {
    // The usual case.
    let Some(mut some) = query(range.clone())? else { return Ok(None) };
    let (mut end, mut window) = (range.end, WINDOW);
    while end > range.start {
        let start = end.saturating_sub(window).max(range.start);
        match query(start..end)? {
            Some(found) => {
                some = found;
                break;
            }
            None => (end, window) = (start, window.saturating_mul(64)),
        }
    }
    // Nothing is at `end` or above, and something at `some`. Few queues are long, so it is often the last one.
    while let Some(nearer) = query(some.place.byte() + 1..end)? {
        some = nearer;
        let middle = some.place.byte() + 1 + (end - some.place.byte() - 1) / 2;
        match query(middle..end)? {
            Some(nearer) => some = nearer,
            None => end = middle,
        }
    }
    Ok(Some(some))
}

/// Returns the lowest claim in the range.
pub(super) fn lowest(
    range: Range<i64>,
    mut query: impl FnMut(Range<i64>) -> io::Result<Option<Found>>,
) -> io::Result<Option<Found>> {
    let Some(mut lowest) = query(range.clone())? else { return Ok(None) };
    while let Some(lower) = query(range.start..lowest.place.byte())? {
        lowest = lower;
    }
    Ok(Some(lowest))
}

/// Returns all claims from the lowest up.
pub(super) fn all(mut query: impl FnMut(Range<i64>) -> io::Result<Option<Found>>) -> io::Result<Vec<Found>> {
    let (mut found, mut from) = (Vec::new(), 0);
    while let Some(next) = lowest(from..i64::MAX, &mut query)? {
        from = next.place.byte() + 1;
        found.push(next);
    }
    Ok(found)
}

/// Returns those of the waiting claims above that a departure frees: an exclusive claim frees the next writer or all readers before
/// it, a shared one the next writer. `is_alive` says whether a claim can be woken; the dead are passed over.
///
/// `query` sees the writers only where a shared claim leaves.
pub(super) fn freed(
    left: Mode,
    range: Range<i64>,
    mut query: impl FnMut(Range<i64>) -> io::Result<Option<Found>>,
    mut is_alive: impl FnMut(&Found) -> bool,
) -> io::Result<Vec<Found>> {
    let (mut freed, mut from) = (Vec::new(), range.start);
    while let Some(next) = lowest(from..range.end, &mut query)? {
        from = next.place.byte() + 1;
        if next.mode == Mode::Exclusive && !freed.is_empty() {
            break;
        }
        if is_alive(&next) {
            freed.push(next);
            if next.mode == Mode::Exclusive || left == Mode::Shared {
                break;
            }
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::ticket::Place;
    use super::*;

    use Mode::{Exclusive, Shared};

    fn claims(list: &[(i64, Mode)]) -> Vec<Found> {
        list.iter().map(|(byte, mode)| Found { place: Place::at(*byte), mode: *mode }).collect()
    }

    /// Answers as the kernel does: with any of the claims, here in the order of the list.
    fn ask(claims: &[Found]) -> impl FnMut(Range<i64>) -> io::Result<Option<Found>> + '_ {
        move |range| Ok(claims.iter().copied().find(|claim| range.contains(&claim.place.byte())))
    }

    #[test]
    fn the_nearest_claim_below_is_found_whatever_the_kernel_answers() {
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let span = [50, 1 << 20, 1 << 31][random(3) as usize];
            let list: Vec<_> = (0..random(12)).map(|_| ((random(span) as i64) << random(30), Shared)).collect();
            let list = claims(&list);
            let end = (random(span) as i64) << random(30);
            let expected = list.iter().map(|claim| claim.place.byte()).filter(|byte| *byte < end).max();
            let found = nearest_below(0..end, ask(&list)).unwrap();
            assert_eq!(found.map(|found| found.place.byte()), expected, "{list:?} below {end}");
            let ordered: Vec<_> = all(ask(&list)).unwrap().iter().map(|found| found.place.byte()).collect();
            let mut sorted: Vec<_> = list.iter().map(|claim| claim.place.byte()).collect();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(ordered, sorted);
        }
    }

    #[test]
    fn a_free_key_costs_one_query() {
        let asked = Cell::new(0);
        let count = |_| {
            asked.set(asked.get() + 1);
            Ok(None)
        };
        assert_eq!(nearest_below(0..i64::MAX, count).unwrap(), None);
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn ten_thousand_claims_take_few_queries() {
        let list: Vec<_> = (0..10_000).map(|n| ((1 << 50) + (n << 15), Exclusive)).collect();
        let list = claims(&list);
        let asked = Cell::new(0);
        let count = |range: Range<i64>| {
            asked.set(asked.get() + 1);
            ask(&list)(range)
        };
        let found = nearest_below(0..(1 << 50) + (9_000 << 15), count).unwrap().unwrap();
        assert_eq!(found.place.byte(), (1 << 50) + (8_999 << 15));
        assert!(asked.get() < 60, "{} queries", asked.get());
    }

    #[test]
    fn a_departure_frees_the_next_writer_or_the_readers_before_it() {
        let dead = |byte: i64| move |found: &Found| found.place.byte() != byte;
        type Case = (&'static str, Mode, &'static [(i64, Mode)], i64, &'static [i64]);
        let table: &[Case] = &[
            ("nobody waits", Exclusive, &[], 0, &[]),
            ("a writer wakes the first writer", Exclusive, &[(3, Exclusive), (2, Exclusive)], 0, &[2]),
            ("and no reader behind it", Exclusive, &[(2, Exclusive), (3, Shared)], 0, &[2]),
            (
                "a writer wakes all readers up to the next writer",
                Exclusive,
                &[(5, Shared), (2, Shared), (4, Exclusive), (3, Shared)],
                0,
                &[2, 3],
            ),
            ("a dead writer is passed over", Exclusive, &[(2, Exclusive), (3, Exclusive)], 2, &[3]),
            ("a dead writer before readers", Exclusive, &[(2, Exclusive), (3, Shared), (4, Shared)], 2, &[3, 4]),
            ("a dead reader before a writer", Exclusive, &[(2, Shared), (3, Exclusive)], 2, &[3]),
            ("a dead reader among readers", Exclusive, &[(2, Shared), (3, Shared), (4, Shared)], 3, &[2, 4]),
            ("a reader wakes the first writer", Shared, &[(5, Exclusive), (4, Exclusive)], 0, &[4]),
            ("or the second if that is dead", Shared, &[(5, Exclusive), (4, Exclusive)], 4, &[5]),
        ];
        for (case, left, waiting, dead_one, expected) in table {
            let waiting = claims(waiting);
            let woken = freed(*left, 1..i64::MAX, ask(&waiting), dead(*dead_one)).unwrap();
            let woken: Vec<_> = woken.iter().map(|found| found.place.byte()).collect();
            assert_eq!(woken, *expected, "{case}");
        }
    }
}
