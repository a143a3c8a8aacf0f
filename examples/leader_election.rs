//! A leader is whoever holds a lock, for as long as it can: `cargo run --example leader_election [URL]`.
//!
//! Two candidates stand for election, each with a manager of its own, as two processes would. Who leads does so until the lock is
//! lost, then steps down and stands again, behind the others. The fencing token is the number of the term: it grows from leader to
//! leader, and what a leader orders carries it, so that the orders of one who has not noticed yet are refused.

use std::error::Error;
use std::time::Duration;

use leasehold::{FencingToken, LockError, LockGuard, LockManager};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::sleep;

const OFFICE: &str = "leader/shop";

/// For how long there is no leader after one has died without a word. A shorter one takes others for dead more easily.
const TTL: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://leader_election".into());
    let candidate = |name: &'static str| LockManager::builder().url(&url).name(name).ttl(TTL).build();
    let managers = [candidate("alice").await?, candidate("bob").await?];
    let (elected, mut elections) = unbounded_channel();
    let [alice, bob] = [("alice", managers[0].clone()), ("bob", managers[1].clone())]
        .map(|(name, manager)| tokio::spawn(stand(name, manager, elected.clone())));

    let admin = LockManager::connect(&url).await?;
    let mut last = None;
    for term in 1..=4 {
        let (name, token) = elections.recv().await.ok_or("all candidates have gone")?;
        println!("term {term}: {name} leads, token {token}");
        assert!(last < Some(token), "the terms grow");
        last = Some(token);
        sleep(Duration::from_millis(200)).await;
        if term < 4 {
            // What a partition or a crash does after a TTL, an administrator does at once.
            admin.force_unlock(OFFICE).await?;
        }
    }
    for manager in managers {
        manager.close().await?;
    }
    alice.await??;
    bob.await??;
    Ok(())
}

/// Stands for election, again and again, until the manager is closed.
async fn stand(
    name: &'static str,
    manager: LockManager,
    elected: UnboundedSender<(&'static str, FencingToken)>,
) -> Result<(), LockError> {
    loop {
        // Waits in line, for as long as another leads. With a lease of its own: who takes the office away takes nothing else.
        let guard = match manager.lock(OFFICE).isolated().await {
            Ok(guard) => guard,
            Err(LockError::Closed { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        // Nobody hears of it once the last term is over.
        let _ = elected.send((name, guard.token()));
        match guard.run(lead(&guard)).await {
            Ok(never) => match never {},
            // By now `lead` is dropped: nothing of it goes on.
            Err(LockError::Expired { cause, .. }) => println!("        {name} steps down: {cause}"),
            Err(error) => return Err(error),
        }
    }
}

/// What only the leader does.
async fn lead(guard: &LockGuard) -> std::convert::Infallible {
    loop {
        sleep(Duration::from_millis(50)).await;
        give_orders(guard.token());
    }
}

/// Whoever gets an order with a token smaller than the last ignores it.
fn give_orders(_term: FencingToken) {}
