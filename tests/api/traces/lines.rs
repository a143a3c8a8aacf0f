//! Each line is emitted once: as an event where there is a subscriber, else as a record of `log`. (`tracing` is built with its feature
//! `log` here, by which it would emit records as well.)

use leasehold::{LockGuard, LockManager};
use support::{eventually, in_a_separate_process, logs};
use tracing::Level;

use super::recorded::Recorded;

const NAME: &str = "user-service.dlock";

/// Locks, unlocks and loses a lock. Returns the texts that are to be emitted, the last of which is deferred by the keeper; and the lost
/// guard, whose drop might else emit it.
fn a_life() -> (Vec<String>, LockGuard) {
    let connect = |name: &str| LockManager::builder().url("memory://traces").name(name).build().wait().unwrap();
    let (manager, admin) = (connect(NAME), connect("admin"));
    let guard = manager.lock("k").wait().unwrap();
    let token = guard.token();
    guard.unlock().wait().unwrap();
    let mut texts = vec![format!("{NAME}: lock \"k\" acquired (token {token})")];
    texts.push(format!("{NAME}: lock \"k\" released (token {token})"));
    let guard = manager.lock("k").wait().unwrap();
    admin.force_unlock("k").wait().unwrap();
    futures::executor::block_on(guard.lost());
    let token = guard.token();
    texts.push(format!("{NAME}: lock \"k\" acquired (token {token})"));
    texts.push(format!("{NAME}: lock \"k\" lost (token {token}): revoked on the server"));
    (texts, guard)
}

fn count<'a>(lines: impl IntoIterator<Item = &'a str>, text: &str) -> usize {
    lines.into_iter().filter(|line| *line == text).count()
}

/// Asserts that these are records of `log`, each once.
fn are_records(texts: &[String]) {
    for text in texts {
        eventually(text, || logs::lines().iter().any(|line| line.text == *text).then_some(()));
    }
    let lines = logs::lines();
    for text in texts {
        assert_eq!(count(lines.iter().map(|line| line.text.as_str()), text), 1, "{text}: {lines:?}");
    }
    let of_us = lines.iter().filter(|line| line.text.contains(NAME));
    assert!(of_us.clone().all(|line| line.target == "leasehold"), "spans are not logged: {lines:?}");
}

/// Asserts that these are events, each once.
fn are_events(recorded: &Recorded, texts: &[String]) {
    texts.iter().for_each(|text| drop(recorded.line(NAME, text)));
    let lines = recorded.lines();
    for text in texts {
        assert_eq!(count(lines.iter().map(|line| line.text()), text), 1, "{text}: {lines:?}");
    }
}

#[test]
fn with_a_logger_alone_each_line_is_one_record() {
    in_a_separate_process!();
    logs::collect();
    let (texts, _guard) = a_life();
    are_records(&texts);
}

#[test]
fn with_a_subscriber_alone_each_line_is_one_event_with_fields() {
    in_a_separate_process!();
    let recorded = Recorded::default();
    tracing::subscriber::set_global_default(recorded.subscriber()).unwrap();
    let (texts, guard) = a_life();
    are_events(&recorded, &texts);
    let established = recorded.line(NAME, " established, TTL");
    assert_eq!(established.level, Level::INFO);
    let lost = recorded.line(NAME, " lost (token ");
    assert_eq!((lost.level, lost.fields["key"].as_str()), (Level::WARN, "k"));
    assert_eq!(lost.fields["token"], format!("{}u64", guard.token()), "a number");
    assert_eq!(lost.fields["lease"], established.fields["lease"]);
    assert!(!established.fields.contains_key("key"), "{established:?}");
}

#[test]
fn with_both_each_line_is_one_event_and_no_record() {
    in_a_separate_process!();
    logs::collect();
    let recorded = Recorded::default();
    tracing::subscriber::set_global_default(recorded.subscriber()).unwrap();
    let (texts, _guard) = a_life();
    are_events(&recorded, &texts);
    let records: Vec<_> = logs::lines().iter().filter(|line| line.text.contains(NAME)).cloned().collect();
    assert!(records.is_empty(), "{records:?}");
}

#[test]
fn a_subscriber_of_one_thread_takes_the_lines_of_this_thread() {
    in_a_separate_process!();
    logs::collect();
    let recorded = Recorded::default();
    let (texts, _guard) = tracing::subscriber::with_default(recorded.subscriber(), a_life);
    let (deferred, direct) = texts.split_last().unwrap();
    are_events(&recorded, direct);
    are_records(std::slice::from_ref(deferred));
    // After its end all lines are records again.
    let (texts, _guard) = a_life();
    are_records(&texts);
}
