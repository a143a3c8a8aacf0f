//! The judge of histories finds faults, and only those: the negative control of all tests that rely on it.

use std::sync::Arc;
use std::time::Duration;

use leasehold::{LockManager, Mode};
use support::broken::{Broken, Defect};
use support::child::{self, Child};
use support::folder::Folder;
use support::history::{History, Record, Verdict, Violation, What, judge, judge_slots_in_order};

fn record(hold: &str, at: u64, what: What) -> Record {
    Record { at, hold: hold.into(), key: "k".into(), what }
}

fn got(hold: &str, at: u64, token: u64) -> Record {
    record(hold, at, What::Acquired { mode: Mode::Exclusive, token })
}

fn shared(hold: &str, at: u64, token: u64) -> Record {
    record(hold, at, What::Acquired { mode: Mode::Shared, token })
}

fn slot(hold: &str, at: u64, token: u64, limit: u32) -> Record {
    record(hold, at, What::AcquiredSlot { token, limit, asked: at - 1 })
}

fn got_without_token(hold: &str, at: u64) -> Record {
    record(hold, at, What::AcquiredWithoutToken)
}

fn released(hold: &str, at: u64) -> Record {
    record(hold, at, What::Released)
}

#[test]
fn a_clean_history_passes() {
    let records = [
        got("a", 10, 1),
        released("a", 20),
        got("b", 21, 2),
        record("b", 30, What::Lost),
        released("b", 90),
        shared("r", 31, 2),
        shared("s", 32, 2),
        released("r", 40),
        released("s", 40),
        // Was stopped from 51 on, and found itself lost at 95.
        got("c", 50, 3),
        record("c", 51, What::Alive),
        record("c", 95, What::FoundLost),
        released("c", 96),
        // Was stopped right after its acquire, and killed.
        got("d", 60, 4),
        got("e", 61, 5),
        record("e", 97, What::FoundLost),
        got("f", 70, 6),
        Record { key: "other".into(), ..got("g", 70, 1) },
        got_without_token("h", 100),
        released("h", 110),
        got("i", 111, 7),
        released("i", 120),
    ];
    let verdict = judge(&records, Duration::ZERO);
    assert!(verdict.violations.is_empty(), "{verdict}");
    assert_eq!(verdict.holds, 11);
}

#[test]
fn each_kind_of_breach_is_found() {
    let is_overlap = |violation: &Violation| matches!(violation, Violation::Overlap { .. });
    let is_token = |violation: &Violation| matches!(violation, Violation::Token { .. });
    let is_stray = |violation: &Violation| matches!(violation, Violation::Stray { .. });
    type Is<'a> = &'a dyn Fn(&Violation) -> bool;
    let alive = |hold, at| record(hold, at, What::Alive);
    let cases: [(Is<'_>, Vec<Record>); 13] = [
        (&is_overlap, vec![got("a", 10, 1), got("b", 19, 2), released("a", 20), released("b", 30)]),
        (&is_overlap, vec![got("a", 10, 1), alive("a", 25), got("b", 20, 2), released("b", 30)]),
        (&is_overlap, vec![got("a", 10, 1), record("a", 25, What::Lost), got("b", 20, 2), released("b", 30)]),
        (&is_overlap, vec![shared("a", 10, 1), got("b", 20, 2), released("a", 25), released("b", 30)]),
        (&is_overlap, vec![got("a", 10, 1), shared("b", 20, 2), released("a", 25), released("b", 30)]),
        // The one that overlaps is not the one right before.
        (
            &is_overlap,
            vec![
                got("a", 10, 1),
                released("a", 50),
                shared("b", 11, 2),
                released("b", 12),
                got("c", 20, 3),
                released("c", 30),
            ],
        ),
        (&is_token, vec![got("a", 10, 2), released("a", 11), got("b", 20, 2), released("b", 21)]),
        (&is_token, vec![got("a", 10, 2), released("a", 11), shared("b", 20, 1), released("b", 21)]),
        (&is_token, vec![shared("a", 10, 2), released("a", 11), got("b", 20, 2), released("b", 21)]),
        (&is_overlap, vec![got("a", 10, 1), got_without_token("b", 19), released("a", 20), released("b", 30)]),
        (&is_overlap, vec![got_without_token("a", 10), got("b", 19, 1), released("a", 20), released("b", 30)]),
        (
            &is_token,
            vec![
                got("a", 10, 2),
                released("a", 11),
                got_without_token("b", 15),
                released("b", 16),
                got("c", 20, 2),
                released("c", 21),
            ],
        ),
        (&is_stray, vec![released("a", 10)]),
    ];
    for (is, records) in cases {
        let verdict = judge(&records, Duration::ZERO);
        assert!(verdict.violations.iter().any(is), "{records:?}: {verdict}");
    }
}

/// The breaches of the rules of slots, by all holds, and by the tokens of the slots.
fn crowded(records: &[Record]) -> (Vec<Violation>, Vec<Violation>) {
    (judge(records, Duration::ZERO).violations, judge_slots_in_order(records))
}

#[test]
fn slots_within_their_limits_pass() {
    let records = [
        slot("a", 10, 1, 3),
        slot("c", 11, 3, 3),
        // It was granted before the last one, and late to say so.
        slot("b", 12, 2, 2),
        slot("d", 13, 4, 5),
        slot("e", 14, 5, 5),
        released("b", 20),
        released("c", 20),
        released("d", 20),
        released("e", 20),
        slot("f", 20, 6, 2),
        released("a", 30),
        released("f", 30),
        got("g", 30, 7),
        released("g", 40),
        shared("h", 40, 8),
        released("h", 50),
        slot("i", 50, 9, 1),
        // Was stopped, and found itself lost.
        record("i", 51, What::Alive),
        slot("j", 52, 10, 1),
        record("i", 90, What::FoundLost),
        released("j", 91),
    ];
    assert_eq!(crowded(&records), (vec![], vec![]));
}

#[test]
fn slots_beyond_their_limits_are_found() {
    let five = [(1, 3), (2, 2), (3, 3), (4, 5), (5, 5)].map(|(token, limit)| {
        let hold = ["a", "b", "c", "d", "e"][token as usize - 1];
        [slot(hold, 10 + token, token, limit), released(hold, 20)]
    });
    let beside = |hold: Record| [five.concat(), vec![hold.clone(), released(&hold.hold, 21)]].concat();
    for (limit, is_wrong) in [(2, true), (4, true), (5, true), (6, false)] {
        let expected = vec![Violation::Crowded { hold: "f".into(), limit, others: 5 }];
        let expected = if is_wrong { expected } else { vec![] };
        // It asked when the others were there.
        let (found, in_order) = crowded(&beside(slot("f", 19, 6, limit)));
        assert!(expected.iter().all(|breach| found.contains(breach)) && found.is_empty() != is_wrong, "{found:?}");
        assert_eq!(in_order, expected);
        // It asked before all, and has waited: then others could have come after it, but not so many.
        let waited = record("f", 19, What::AcquiredSlot { token: 6, limit, asked: 1 });
        let (found, in_order) = crowded(&beside(waited));
        assert_eq!((found.is_empty(), in_order), (!is_wrong, expected), "{found:?}");
    }
    // Three that have waited, of which any could be the last.
    let waited = |hold, at, token| record(hold, at, What::AcquiredSlot { token, limit: 2, asked: 1 });
    let three = [waited("a", 10, 1), waited("b", 10, 2), waited("c", 11, 3)];
    let three = [three, ["a", "b", "c"].map(|hold| released(hold, 20))].concat();
    let expected = Violation::Crowded { hold: "c".into(), limit: 2, others: 2 };
    assert_eq!(crowded(&three), (vec![expected.clone()], vec![expected]));
    for other in [got("f", 19, 6), shared("f", 19, 6)] {
        let (found, _) = crowded(&beside(other));
        assert!(matches!(found[..], [Violation::Overlap { .. }]), "{found:?}");
    }
}

#[test]
fn tokens_of_slots_are_judged() {
    let twice = [slot("a", 10, 1, 3), released("a", 30), slot("b", 11, 1, 3), released("b", 12)];
    let (found, in_order) = crowded(&twice);
    assert!(found.is_empty() && matches!(in_order[..], [Violation::Token { .. }]), "{found:?} {in_order:?}");
    let before_a_writer = [slot("a", 10, 2, 3), released("a", 11), got("b", 12, 2), released("b", 13)];
    let (found, _) = crowded(&before_a_writer);
    assert!(matches!(found[..], [Violation::Token { .. }]), "{found:?}");
}

#[test]
fn an_overlap_may_be_allowed() {
    let records = [got("a", 10, 1), got("b", 20, 2), released("a", 25), released("b", 30)];
    assert!(judge(&records, Duration::from_nanos(5)).violations.is_empty());
    assert_eq!(judge(&records, Duration::from_nanos(4)).violations.len(), 1);
}

/// Four managers contend for one key of a test backend.
async fn run(defect: Defect) -> Verdict {
    let folder = Folder::new();
    let history = History::open(folder.path().join("history"));
    let backend = Arc::new(Broken::new(defect));
    let workers = (0..4).map(|_| {
        let (backend, history) = (backend.clone(), history.clone());
        tokio::spawn(async move {
            let manager = LockManager::builder().backend(backend).ttl(Duration::from_secs(1)).build().await.unwrap();
            for _ in 0..3 {
                let guard = manager.lock("k").await.unwrap();
                let hold = history.acquired(&guard);
                tokio::time::sleep(Duration::from_millis(if defect == Defect::LateLoss { 200 } else { 5 })).await;
                hold.released();
                guard.unlock().await.unwrap();
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    judge(&history.records(), Duration::ZERO)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_backend_is_detected() {
    let good = run(Defect::None).await;
    assert!(good.violations.is_empty() && good.holds == 12, "{good}");
    for defect in [Defect::NoExclusion, Defect::LateLoss] {
        let verdict = run(defect).await;
        let overlaps = verdict.violations.iter().any(|violation| matches!(violation, Violation::Overlap { .. }));
        assert!(overlaps, "{defect:?}: {verdict}");
    }
    let verdict = run(Defect::RepeatedToken).await;
    let tokens = verdict.violations.iter().any(|violation| matches!(violation, Violation::Token { .. }));
    assert!(tokens, "{verdict}");
}

#[test]
fn processes_write_to_one_history() {
    let folder = Folder::new();
    let path = folder.path().join("history");
    let mut children: Vec<_> =
        (0..2).map(|_| Child::of_this_test("history::a_process_that_writes", &[path.to_str().unwrap()])).collect();
    for child in &mut children {
        child.expect("ready");
        child.send("go");
    }
    assert!(children.into_iter().all(Child::finish));
    // Two processes with separate stores: they do not exclude one another, and their tokens do not grow together.
    let records = History::open(&path).records();
    assert_eq!(records.len(), 2 * 50 * 3);
    assert_eq!(judge(&records, Duration::ZERO).holds, 100);
}

#[test]
#[ignore = "a child of another test"]
fn a_process_that_writes() {
    let Some(arguments) = child::role() else { return };
    let history = History::open(&arguments[0]);
    child::say("ready");
    assert_eq!(child::hear().as_deref(), Some("go"));
    let manager = LockManager::memory();
    for _ in 0..50 {
        let guard = manager.lock("k").wait().unwrap();
        let hold = history.acquired(&guard);
        assert!(!hold.is_lost(&guard));
        hold.released();
    }
}
