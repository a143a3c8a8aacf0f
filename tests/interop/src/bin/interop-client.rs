//! The lock of another crate, for the tests of interop: executes the commands of the library, one a line.
//!
//! `interop-client KIND URL KEY`; the key is its name on the server.

use std::time::{Duration, Instant};

use leasehold_interop_tests::client::{HOLD, Kind, PAUSE, RETRY, TTL};
use support::child;
use support::history::History;

#[expect(clippy::large_enum_variant, reason = "there is just one")]
enum Client {
    Rslock { manager: rslock::LockManager, held: Option<rslock::Lock> },
    AsyncRedisLock { locker: async_redis_lock::Locker, held: Option<async_redis_lock::Lock> },
}

impl Client {
    async fn connect(kind: &str, url: &str) -> Self {
        match Kind::of_word(kind) {
            Some(Kind::Rslock) => Self::Rslock { manager: rslock::LockManager::new(vec![url]), held: None },
            Some(Kind::AsyncRedisLock) => {
                let locker = async_redis_lock::Locker::from_redis_url(url).await.unwrap();
                Self::AsyncRedisLock { locker, held: None }
            }
            Some(Kind::RedisPy | Kind::PythonRedisLock | Kind::RedisPyCluster) | None => panic!("not in here: {kind}"),
        }
    }

    /// Acquires the lock; waits for it if `wait`. Returns whether it was acquired.
    async fn acquire(&mut self, key: &str, wait: bool) -> bool {
        match self {
            Self::Rslock { manager, held } => {
                // One try without a pause; the loop waits.
                manager.set_retry(if wait { 3 } else { 1 }, RETRY);
                *held = match wait {
                    true => Some(manager.acquire_no_guard(key, TTL).await.unwrap()),
                    false => match manager.lock(key, TTL).await {
                        Ok(lock) => Some(lock),
                        Err(rslock::LockError::Unavailable) => None,
                        Err(error) => panic!("{error}"),
                    },
                };
                held.is_some()
            }
            Self::AsyncRedisLock { locker, held } => {
                let options = async_redis_lock::Options::new().ttl(TTL).retry(RETRY);
                let options = options.timeout((!wait).then_some(Duration::ZERO));
                *held = match locker.acquire_with_options(&options, key).await {
                    Ok(lock) => Some(lock),
                    Err(async_redis_lock::Error::Timeout) => None,
                    Err(error) => panic!("{error}"),
                };
                held.is_some()
            }
        }
    }

    async fn release(&mut self) {
        match self {
            Self::Rslock { manager, held } => {
                let lock = held.take().unwrap();
                // Its release does not report whether the lock was still held.
                assert!(!manager.is_freed(&lock).await.unwrap());
                lock.release().await;
            }
            Self::AsyncRedisLock { held, .. } => held.take().unwrap().release().await.unwrap(),
        }
    }

    async fn crowd(&mut self, key: &str, history: &str, name: &str, time: Duration) -> usize {
        let (history, start, mut holds) = (History::open(history), Instant::now(), 0);
        while start.elapsed() < time {
            assert!(self.acquire(key, true).await);
            let hold = history.acquired_elsewhere(name, None);
            tokio::time::sleep(HOLD).await;
            hold.released();
            self.release().await;
            holds += 1;
            tokio::time::sleep(PAUSE.mul_f64(rand::random())).await;
        }
        holds
    }
}

#[tokio::main]
async fn main() {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [kind, url, key] = &arguments[..] else { panic!("interop-client KIND URL KEY") };
    let mut client = Client::connect(kind, url).await;
    child::say("ready");
    while let Some(line) = child::hear() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["try"] => child::say(if client.acquire(key, false).await { "yes" } else { "no" }),
            ["lock"] => {
                assert!(client.acquire(key, true).await);
                child::say("locked");
            }
            ["unlock"] => {
                client.release().await;
                child::say("unlocked");
            }
            ["crowd", history, name, seconds] => {
                let time = Duration::from_secs_f64(seconds.parse().unwrap());
                child::say(&client.crowd(key, history, name, time).await.to_string());
            }
            _ => panic!("no such order: {line}"),
        }
    }
}
