//! Locks that are held, or waited for, while nothing else happens.

use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::task::JoinSet;

use crate::clients::{Client, Lock};
use crate::figures::{Figure, Sample};
use crate::servers::Server;
use crate::{Result, cpu, measure};

/// A third of the usual TTL of 30 s: each lock of most clients is renewed once in it.
const REST: Duration = Duration::from_secs(10);
/// After this time what was done before is over.
const PAUSE: Duration = Duration::from_secs(2);
/// This many requests at a time, so that the memory which they need for themselves does not count.
const CONCURRENCY: usize = 64;

async fn hold<C: Client>(client: &C, locks: usize) -> Result<Vec<<C::Lock as Lock>::Held>> {
    let mut all = Vec::with_capacity(locks);
    let acquire = |n: usize| async move { client.lock(&format!("held/{n}")).await?.acquire().await };
    let mut acquired = stream::iter(0..locks).map(acquire).buffer_unordered(CONCURRENCY);
    while let Some(held) = acquired.try_next().await? {
        all.push(held);
    }
    Ok(all)
}

/// One client holds locks.
pub async fn held<C: Client>(server: &Server, locks: usize) -> Result<Sample> {
    let client = C::connect(server).await?;
    // What the client needs once.
    let mut lock = client.lock("first").await?;
    let first = lock.acquire().await?;
    lock.release(first).await?;
    let before = cpu::resident_memory()?;
    let _all = hold(&client, locks).await?;
    tokio::time::sleep(PAUSE).await;
    let memory = cpu::resident_memory()?.saturating_sub(before) as f64 / locks as f64;
    Ok(measure::rest(server, REST).await?.with(Figure::Memory, memory))
}

/// Tasks of one client or more wait for keys that another client holds.
pub async fn waiting<C: Client>(server: &Server, clients: usize, tasks: usize, keys: usize) -> Result<Sample> {
    let _all = hold(&C::connect(server).await?, keys).await?;
    let mut set = JoinSet::new();
    for _ in 0..clients {
        let client = C::connect(server).await?;
        for task in 0..tasks {
            let mut lock = client.lock(&format!("held/{}", task % keys)).await?;
            set.spawn(async move { lock.acquire().await.map(drop) });
        }
    }
    tokio::time::sleep(PAUSE).await;
    let sample = measure::rest(server, REST).await?;
    match set.try_join_next() {
        Some(ended) => Err(ended?.err().unwrap_or_else(|| "a waiter has the lock".into())),
        None => Ok(sample),
    }
}
