//! Other clients' locks on Redis, with their default settings.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_redis_lock::{Locker, Options};
use futures::future::try_join_all;
use rslock::LockManager;
use tokio::process::Command;

use crate::measure::{Result, median};

/// A lock of another crate.
#[derive(Clone)]
pub enum Peer {
    Rslock(LockManager),
    AsyncRedisLock(Box<Locker>),
}

impl Peer {
    /// Connects one of each crate.
    pub async fn all(url: &str) -> Result<[Self; 2]> {
        Ok([
            Self::Rslock(LockManager::new(vec![url])),
            Self::AsyncRedisLock(Box::new(Locker::from_redis_url(url).await?)),
        ])
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Rslock(_) => "rslock",
            Self::AsyncRedisLock(_) => "async-redis-lock",
        }
    }

    /// Waits for the lock.
    pub async fn lock(&self, key: &str) -> Result<Held> {
        Ok(match self {
            Self::Rslock(manager) => Held::Rslock(manager.acquire(key, Duration::from_secs(30)).await?),
            Self::AsyncRedisLock(locker) => {
                Held::AsyncRedisLock(locker.acquire_with_options(&Options::new().timeout(None), key).await?)
            }
        })
    }
}

/// A lock of another crate that is held.
#[expect(clippy::large_enum_variant, reason = "a box would cost one of the two an allocation")]
pub enum Held {
    Rslock(rslock::LockGuard),
    AsyncRedisLock(async_redis_lock::Lock),
}

impl Held {
    pub async fn release(self) -> Result<()> {
        match self {
            Self::Rslock(guard) => guard.release().await,
            Self::AsyncRedisLock(lock) => lock.release().await?,
        }
        Ok(())
    }
}

/// The measurements of redis-py's locks over all processes.
pub struct RedisPy {
    pub pairs_a_second: f64,
    /// The number of times a second that the lock changed to another process.
    pub changes_a_second: f64,
    /// The median duration of a pair.
    pub median: Duration,
}

impl RedisPy {
    /// Runs processes with threads, each thread on a separate key if `own`. `None` without the Python environment of tests/run.sh.
    pub async fn run(url: &str, processes: usize, threads: usize, own: bool, time: Duration) -> Result<Option<Self>> {
        let Some(python) = python() else { return Ok(None) };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/redis-py.py");
        let run = |_| {
            let mut command = Command::new(&python);
            command.args([script, url, if own { "own" } else { "one" }]);
            command.args([threads.to_string(), time.as_secs_f64().to_string()]).stderr(Stdio::inherit());
            async move { command.output().await }
        };
        // The start of each hold, on a clock that all processes share, with its process; and the duration of each pair.
        let (mut holds, mut times) = (Vec::new(), Vec::new());
        for (process, output) in try_join_all((0..processes).map(run)).await?.into_iter().enumerate() {
            for line in String::from_utf8(output.stdout)?.lines() {
                let (begun, took) = line.split_once(' ').ok_or("no two numbers")?;
                holds.push((begun.parse::<u64>()?, process));
                times.push(Duration::from_nanos(took.parse()?));
            }
        }
        if holds.is_empty() {
            return Err("redis-py.py has printed nothing".into());
        }
        holds.sort_unstable();
        let changes = holds.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
        let rate = |count: usize| count as f64 / time.as_secs_f64();
        let (pairs_a_second, changes_a_second) = (rate(holds.len()), rate(changes));
        Ok(Some(Self { pairs_a_second, changes_a_second, median: median(&mut times) }))
    }
}

/// In cargo's target directory: this is target/release/redis.
fn python() -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    Some(this.ancestors().nth(2)?.join("python/bin/python")).filter(|python| python.exists())
}
