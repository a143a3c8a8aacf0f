//! Leader election: the holder of a lock is the leader until it loses the lock: `cargo run --example leader_election [URL]`.
//!
//! Two candidates stand for election, each with a separate manager, like two processes. A leader leads until its lock is lost, then
//! steps down and stands again, behind the others. The fencing token is the number of the term: it grows from leader to leader. Each
//! order of a leader carries it, so that the orders of an outdated leader are refused.

use std::error::Error;
use std::time::Duration;

use leasehold::{FencingToken, LockError, LockGuard, LockManager};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::sleep;

const OFFICE: &str = "leader/shop";

/// The time without a leader after a crash. With a shorter TTL, a slow leader loses its office sooner.
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
        let (name, token) = elections.recv().await.ok_or("no candidate is left")?;
        println!("term {term}: {name} leads, token {token}");
        assert!(last < Some(token), "the terms grow");
        last = Some(token);
        sleep(Duration::from_millis(200)).await;
        if term < 4 {
            // An administrator does at once what a partition or a crash does after the TTL.
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

/// Stands for election repeatedly, until the manager is closed.
async fn stand(
    name: &'static str,
    manager: LockManager,
    elected: UnboundedSender<(&'static str, FencingToken)>,
) -> Result<(), LockError> {
    loop {
        // Waits as long as another candidate leads. The lease is separate: revoking it releases nothing else.
        let guard = match manager.lock(OFFICE).isolated().await {
            Ok(guard) => guard,
            Err(LockError::Closed { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        // The receiver is dropped after the last term.
        let _ = elected.send((name, guard.token()));
        match guard.run(lead(&guard)).await {
            Ok(never) => match never {},
            // `lead` is dropped by now, so none of its work continues.
            Err(LockError::Expired { cause, .. }) => println!("        {name} steps down: {cause}"),
            Err(error) => return Err(error),
        }
    }
}

/// The work of the leader.
async fn lead(guard: &LockGuard) -> std::convert::Infallible {
    loop {
        sleep(Duration::from_millis(50)).await;
        give_orders(guard.token());
    }
}

/// Stands for a message to workers, which ignore a token smaller than the greatest so far.
fn give_orders(_term: FencingToken) {}
