//! An account that may only publish and subscribe on our channels: it learns attempts from messages, and forges others.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use leasehold::{LockManager, LockRequest};
use support::folder::Folder;
use support::history::History;
use support::proxy::Proxy;
use support::redis::Redis;
use support::{PATIENCE, eventually, in_the_background};

const TTL: Duration = Duration::from_secs(3);
/// In microseconds.
const DAY: u64 = 24 * 60 * 60 * 1_000_000;

fn manager(url: String) -> LockManager {
    LockManager::builder().url(url).ttl(TTL).build().wait().unwrap()
}

/// A message by which a lock was handed over.
#[derive(Clone, Debug)]
struct Grant {
    channel: String,
    attempt: String,
    epoch: u64,
}

/// The account. It hears each real message once: the forged ones name attempts that it has heard of.
struct Spy {
    heard: Receiver<Grant>,
    connection: redis::Connection,
}

impl Spy {
    fn new(redis: &Redis) -> Self {
        redis.cli(&["ACL", "SETUSER", "spy", "reset", "on", ">spy", "&lock:%wake:*", "+publish", "+psubscribe"]);
        let client = redis::Client::open(redis.url().replace("//", "//spy:spy@")).unwrap();
        let (mut listening, (sender, heard)) = (client.get_connection().unwrap(), channel());
        let (ready, is_ready) = channel();
        std::thread::spawn(move || {
            let mut messages = listening.as_pubsub();
            messages.psubscribe("lock:%wake:*").unwrap();
            ready.send(()).unwrap();
            let mut known = HashSet::new();
            while let Ok(message) = messages.get_message() {
                let (channel, text) = (message.get_channel_name().to_owned(), message.get_payload::<String>().unwrap());
                if text.starts_with('g') && known.insert(text[1..17].to_owned()) {
                    let grant = Grant { channel, attempt: text[1..17].into(), epoch: text[17..].parse().unwrap() };
                    if sender.send(grant).is_err() {
                        return;
                    }
                }
            }
        });
        is_ready.recv().unwrap();
        Self { heard, connection: client.get_connection().unwrap() }
    }

    fn hear(&self) -> Grant {
        self.heard.recv_timeout(PATIENCE).unwrap()
    }

    fn publish(&mut self, grant: &Grant, messages: &[String]) -> Vec<u64> {
        let mut pipe = redis::pipe();
        for message in messages {
            pipe.publish(&grant.channel, message);
        }
        pipe.query(&mut self.connection).unwrap()
    }
}

/// All kinds of messages that a spy can think of about an attempt. `last`: the last epoch that it has heard of.
fn forgeries(attempt: &str, epoch: u64, last: u64) -> Vec<String> {
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    let epochs = [0, 1, epoch - 1, epoch, epoch + 1, last, last + 1, now, now + 1, now + DAY / 2, last + DAY - 1]
        .into_iter()
        .chain([now + DAY, now + 2 * DAY, (1 << 53) - 1, 1 << 53, u64::MAX])
        .map(|epoch| epoch.to_string());
    let garbage = ["", "x", "-1", "1e300", "inf", "99999999999999999999999", " 5"].map(str::to_owned);
    let loss = format!("l{attempt}");
    let grants = epochs.chain(garbage).map(|epoch| format!("g{attempt}{epoch}"));
    grants.flat_map(|grant| [loss.clone(), grant]).collect()
}

fn request(manager: &LockManager) -> LockRequest {
    let request = manager.lock("k").timeout(PATIENCE);
    if rand::random_range(0..4) == 0 { request.shared() } else { request }
}

/// The forgeries meet each stage: the one before the first answer, queued, granted, held, being released, and released.
#[test]
fn forged_messages_neither_let_two_in_nor_end_a_hold() {
    let redis = Redis::start();
    let folder = Folder::new();
    let history = History::open(folder.path().join("history"));
    let mut spy = Spy::new(&redis);
    let (enough, turns, forged) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let manager = manager(redis.url());
                while !enough.load(Ordering::SeqCst) {
                    let guard = request(&manager).wait().unwrap();
                    let hold = history.acquired(&guard);
                    turns.fetch_add(1, Ordering::SeqCst);
                    for _ in 0..rand::random_range(0..5) {
                        std::thread::sleep(Duration::from_millis(1));
                        assert!(!hold.is_lost(&guard));
                    }
                    hold.released();
                    guard.unlock().wait().unwrap();
                }
                manager.close().wait().unwrap();
            });
        }
        let attack = || {
            let (start, mut known) = (Instant::now(), Vec::<Grant>::new());
            while start.elapsed() < Duration::from_secs(5) {
                loop {
                    match spy.heard.try_recv() {
                        Ok(grant) => known.push(grant),
                        Err(TryRecvError::Empty) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                // Each turn meets some, but the managers keep up.
                std::thread::sleep(Duration::from_millis(10));
                let recent = known.len().saturating_sub(2);
                let last = known.iter().map(|grant| grant.epoch).max().unwrap_or_default();
                for grant in &known[recent..] {
                    let messages = forgeries(&grant.attempt, grant.epoch, last);
                    forged.fetch_add(messages.len(), Ordering::SeqCst);
                    spy.publish(grant, &messages);
                }
            }
        };
        let attacked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attack));
        enough.store(true, Ordering::SeqCst);
        attacked.unwrap();
    });
    println!("{turns:?} turns, {forged:?} forged messages");
    history.assert_clean(50);
    eventually("nothing is left", || redis.keys("*lock:k*").is_empty().then_some(()));
}

/// The message of a grant is lost with the subscription, and the grant lapses: the spy knows an attempt that waits again.
#[test]
fn an_attempt_whose_message_was_lost_believes_no_other() {
    let redis = Redis::start();
    let mut spy = Spy::new(&redis);
    let proxy = Proxy::start(redis.address());
    let (holder, next) = (manager(redis.url()), manager(redis.url()));
    let distant = manager(format!("redis://{}", proxy.address()));
    let waits = |count| {
        eventually("it waits", || (holder.info("k").wait().unwrap()?.waiters == count).then_some(()));
    };
    let guard = holder.lock("k").wait().unwrap();
    let waiting = in_the_background(distant.lock("k"));
    waits(1);
    let next = in_the_background(next.lock("k"));
    waits(2);
    proxy.drop_answers(true);
    guard.unlock().wait().unwrap();
    let grant = spy.hear();
    // The grant lapses, and the next one has the lock.
    let (next, _) = next.recv_timeout(PATIENCE).unwrap();
    let epoch = next.token().get() >> 10;
    proxy.drop_answers(false);
    eventually("it is subscribed again", || {
        redis.cli(&["PUBSUB", "NUMSUB", &grant.channel]).ends_with('1').then_some(())
    });
    // Its request, which follows, is answered: it waits again.
    std::thread::sleep(Duration::from_millis(300));
    for epoch in [epoch + 1, grant.epoch + 60_000_000] {
        assert_eq!(spy.publish(&grant, &[format!("g{}{epoch}", grant.attempt)]), [2], "it is received");
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        assert!(waiting.try_recv().is_err(), "two hold");
        assert!(!next.is_lost());
        std::thread::sleep(Duration::from_millis(5));
    }
    next.unlock().wait().unwrap();
    waiting.recv_timeout(PATIENCE).unwrap().0.unlock().wait().unwrap();
}

/// A grant whose future is not polled at once is a hold as well.
#[test]
fn a_forged_loss_takes_no_turn_from_a_waiter_that_has_not_taken_it_yet() {
    let redis = Redis::start();
    let mut spy = Spy::new(&redis);
    let (holder, slow, next) = (manager(redis.url()), manager(redis.url()), manager(redis.url()));
    let waits = |count| {
        eventually("it waits", || (holder.info("k").wait().unwrap()?.waiters == count).then_some(()));
    };
    let guard = holder.lock("k").wait().unwrap();
    let mut waiting = pin!(slow.lock("k").into_future());
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    waits(1);
    let next = in_the_background(next.lock("k"));
    waits(2);
    guard.unlock().wait().unwrap();
    let grant = spy.hear();
    for _ in 0..100 {
        spy.publish(&grant, &[format!("l{}", grant.attempt)]);
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        assert!(next.try_recv().is_err(), "the next one has the lock");
        std::thread::sleep(Duration::from_millis(5));
    }
    let taken = eventually("it has its turn", || match poll() {
        Poll::Ready(taken) => Some(taken.unwrap()),
        Poll::Pending => None,
    });
    assert!(next.try_recv().is_err() && !taken.is_lost());
    taken.unlock().wait().unwrap();
    next.recv_timeout(PATIENCE).unwrap().0.unlock().wait().unwrap();
}
