//! Candidates for an office in separate processes, whose leader is killed again and again, and observers of it.
//!
//! With `LEASEHOLD_SOAK` for so many seconds.

use std::future::pending;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use leasehold::{LockInfo, LockManager};
use support::child::{self, Child};
use support::etcd::Etcd;
use support::history::now;
use support::redis::Redis;
use support::{PATIENCE, eventually, soak};

/// The shortest TTL that etcd grants.
const TTL: Duration = Duration::from_secs(2);
/// From the kill of the leader to the next term.
const LIMIT: Duration = TTL.saturating_add(Duration::from_secs(1));
/// More than that on a busy machine.
const SLACK: Duration = Duration::from_secs(3);
/// How long a leader leads before it is killed. A watch that asks once a second sees it.
const TERM: Duration = Duration::from_millis(2500);

/// A term, as its leader has reported it.
#[derive(Clone, Debug)]
struct Term {
    leader: String,
    token: u64,
    /// When the work began.
    began: u64,
    /// When the leader was killed, or asked to resign.
    ended: Option<u64>,
}

/// A state that an observer has seen: the leader and its token, if they are known.
#[derive(Debug)]
struct Seen {
    leader: Option<(String, Option<u64>)>,
    at: u64,
}

struct Candidates {
    url: String,
    children: Vec<(String, Child)>,
    count: usize,
}

impl Candidates {
    fn start(url: &str) -> Self {
        let mut candidates = Self { url: url.to_owned(), children: Vec::new(), count: 0 };
        (0..3).for_each(|_| candidates.add());
        candidates
    }

    fn add(&mut self) {
        let name = format!("candidate {}", self.count);
        self.count += 1;
        let mut child = Child::of_this_test("leaders::candidate", &[&self.url, &name]);
        child.expect("ready");
        self.children.push((name, child));
    }

    /// Waits for a term that any of them begins.
    fn begun(&mut self, limit: Duration) -> Option<Term> {
        let start = Instant::now();
        while start.elapsed() < limit {
            for (leader, child) in &mut self.children {
                if let Some(said) = child.said_within(Duration::from_millis(2)) {
                    let (token, began) = said.split_once(' ').unwrap();
                    let (token, began) = (token.parse().unwrap(), began.parse().unwrap());
                    return Some(Term { leader: leader.clone(), token, began, ended: None });
                }
            }
        }
        None
    }

    /// Takes the leader out of the candidates.
    fn take(&mut self, term: &Term) -> Child {
        let place = self.children.iter().position(|(name, _)| *name == term.leader).unwrap();
        self.children.swap_remove(place).1
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of a test, in a child process"]
async fn candidate() {
    let Some(arguments) = child::role() else { return };
    let manager = LockManager::builder().url(&arguments[0]).ttl(TTL).build().await.unwrap();
    let office = manager.lock("office").value(&arguments[1]);
    child::say("ready");
    let leading = tokio::spawn(office.lead(|guard| {
        child::say(&format!("{} {}", guard.token().get(), now()));
        pending::<ControlFlow<()>>()
    }));
    tokio::task::spawn_blocking(child::hear).await.unwrap();
    manager.close().await.unwrap();
    assert_eq!(leading.await.unwrap().unwrap_err().code(), "CLOSED");
}

/// Observes the office on a thread.
fn observe(url: &str) -> Receiver<Seen> {
    let mut watch = LockManager::connect(url).wait().unwrap().watch("office");
    let (sender, seen) = channel();
    std::thread::spawn(move || {
        while let Some(state) = watch.wait_next() {
            // What is unreachable for a moment is seen again.
            let Ok(state) = state else { continue };
            let leader = |info: LockInfo| (info.values[0].clone().unwrap(), info.token.map(|token| token.get()));
            if sender.send(Seen { leader: state.map(leader), at: now() }).is_err() {
                return;
            }
        }
    });
    seen
}

/// What an observer has seen, which has to be each term, in their order and at their times. Returns the longest time until one was seen.
fn assert_agrees(seen: &[Seen], terms: &[Term]) -> Duration {
    let (mut place, mut slowest) = (None, 0);
    for Seen { leader, at } in seen {
        let Some((leader, token)) = leader else { continue };
        let is_this = |term: &Term| term.leader == *leader;
        let shown = terms.iter().position(is_this).unwrap_or_else(|| panic!("{leader} has never led: {terms:?}"));
        let term = &terms[shown];
        assert!(token.is_none_or(|token| token == term.token), "{token:?} of {term:?}");
        if place != Some(shown) {
            assert_eq!(shown, place.map_or(0, |place| place + 1), "{leader} is out of order: {seen:?} of {terms:?}");
            let before = shown.checked_sub(1).and_then(|before| terms[before].ended);
            assert!(before.is_none_or(|ended| ended < *at), "two lead at a time: {term:?} at {at}");
            slowest = slowest.max(at.saturating_sub(term.began));
        }
        place = Some(shown);
    }
    assert_eq!(place, Some(terms.len() - 1), "the last term: {seen:?}");
    Duration::from_nanos(slowest)
}

fn the_next_leader_follows_a_killed_one(scheme: &str, address: SocketAddr) {
    let url = format!("{scheme}://{address}");
    let observers = [observe(&url), observe(&url)];
    let mut candidates = Candidates::start(&url);
    let (start, mut terms, mut gaps) = (Instant::now(), Vec::<Term>::new(), Vec::new());
    let is_enough = |count: usize| soak().map_or(count >= 3, |time| start.elapsed() > time);
    loop {
        let term = candidates.begun(PATIENCE).expect("a leader");
        if let Some(before) = terms.last() {
            gaps.push(Duration::from_nanos(term.began.saturating_sub(before.ended.unwrap())));
            assert!(term.token > before.token, "{term:?} after {before:?}");
        }
        terms.push(term.clone());
        let second = candidates.begun(TERM);
        assert!(second.is_none(), "two lead: {second:?} during {term:?}");
        let (mut leader, is_last) = (candidates.take(&term), is_enough(gaps.len()));
        terms.last_mut().unwrap().ended = Some(now());
        if is_last {
            leader.send("resign");
            assert!(leader.finish(), "the leader has failed");
            break;
        }
        leader.process.kill();
        candidates.add();
    }
    gaps.sort_unstable();
    println!(
        "{scheme}: {} leaders killed; the next term after {:?}, {:?} at most",
        gaps.len(),
        gaps[gaps.len() / 2],
        gaps.last()
    );
    assert!(*gaps.last().unwrap() < LIMIT + SLACK, "{gaps:?}");
    assert!(gaps[gaps.len() / 2] < LIMIT + SLACK / 3, "{gaps:?}");
    // A manager that is closed lets the next one lead at once.
    let last = candidates.begun(PATIENCE).expect("a leader");
    let took = Duration::from_nanos(last.began.saturating_sub(terms.last().unwrap().ended.unwrap()));
    println!("{scheme}: the next term {took:?} after the leader was closed");
    assert!(took < TTL / 2 + SLACK / 3, "{took:?}");
    terms.push(last);
    let mut slowest = Vec::new();
    for observer in &observers {
        let mut seen = Vec::new();
        eventually("the last term is seen", || {
            seen.extend(observer.try_iter());
            let leader = seen.last().and_then(|seen| seen.leader.as_ref());
            leader.is_some_and(|(leader, _)| *leader == terms.last().unwrap().leader).then_some(())
        });
        slowest.push(assert_agrees(&seen, &terms));
    }
    println!("{scheme}: observers see a term after {slowest:?} at most");
    for (_, mut child) in candidates.children {
        child.send("resign");
        assert!(child.finish(), "a candidate has failed");
    }
}

#[test]
fn the_next_leader_follows_a_killed_one_on_redis() {
    let redis = Redis::start();
    the_next_leader_follows_a_killed_one("redis", redis.address());
}

#[test]
fn the_next_leader_follows_a_killed_one_on_etcd() {
    let etcd = Etcd::start();
    the_next_leader_follows_a_killed_one("etcd", etcd.address());
}
