//! Locks that are acquired and released as fast as possible.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::Result;
use crate::clients::{Client, Lock};
use crate::figures::Sample;
use crate::measure::{Count, rate};
use crate::servers::Server;

/// Braces, so that the names of what belongs to the key on Redis are known.
fn own_key(task: usize) -> String {
    format!("{{{task}}}")
}

/// Tasks of one client, each with a separate key.
pub async fn own_keys<C: Client>(server: &Server, time: Duration, tasks: usize) -> Result<Sample> {
    let (client, count) = (C::connect(server).await?, Count::default());
    let mut set = JoinSet::new();
    for task in 0..tasks {
        let (mut lock, count) = (client.lock(&own_key(task)).await?, count.clone());
        set.spawn(async move {
            loop {
                let held = lock.acquire().await?;
                lock.release(held).await?;
                count.add(1);
            }
        });
    }
    rate(server, time, count, set).await
}

/// The same, while another client waits for the first key, and the second one has a tombstone.
pub async fn disturbed_keys<C: Client>(server: &Server, time: Duration, tasks: usize) -> Result<Sample> {
    let mut other = C::connect(server).await?.lock(&own_key(0)).await?;
    tokio::spawn(async move {
        loop {
            let held = other.acquire().await?;
            other.release(held).await?;
        }
        #[expect(unreachable_code, reason = "the type of its errors")]
        Result::Ok(())
    });
    let mut connection = redis::Client::open(server.url())?.get_connection()?;
    let tombstone = format!("{{1}}%gone:{}{}", C::PREFIX, own_key(1));
    // Its score is the end of its life in milliseconds; this is in the year 2128.
    redis::cmd("ZADD").arg(tombstone).arg(5e12).arg("another attempt").exec(&mut connection)?;
    own_keys::<C>(server, time, tasks).await
}

/// Clients with separate connections, and tasks of each, on one key. An operation is a change of the lock to another task: without a
/// queue, most often the task that has just released a lock is the next to acquire it.
pub async fn one_key<C: Client>(server: &Server, time: Duration, clients: usize, tasks: usize) -> Result<Sample> {
    let (count, last) = (Count::default(), Arc::new(AtomicUsize::new(usize::MAX)));
    let mut locks = Vec::new();
    for _ in 0..clients {
        let client = C::connect(server).await?;
        for _ in 0..tasks {
            locks.push(client.lock("one").await?);
        }
    }
    let mut set = JoinSet::new();
    for (member, mut lock) in locks.into_iter().enumerate() {
        let (count, last) = (count.clone(), last.clone());
        set.spawn(async move {
            loop {
                let held = lock.acquire().await?;
                if last.swap(member, Ordering::Relaxed) != member {
                    count.add(1);
                }
                lock.release(held).await?;
            }
        });
    }
    rate(server, time, count, set).await
}
