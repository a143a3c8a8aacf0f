//! Leader election: `lead` runs the work of the leader in one term after another: `cargo run --example leader_election [URL]`.
//!
//! Two candidates stand for election, each with a separate manager, like two processes. A leader leads until its lock is lost; then its
//! work is dropped, and it stands again, behind the others. The fencing token is the number of the term: it grows from leader to leader.
//! Each order of a leader carries it, so that the orders of an outdated leader are refused. An observer sees who leads.

use std::error::Error;
use std::ops::ControlFlow;
use std::time::Duration;

use leasehold::{FencingToken, LockError, LockManager};
use tokio::time::sleep;

const OFFICE: &str = "leader/shop";

/// The time without a leader after a crash. With a shorter TTL, a slow leader loses its office sooner.
const TTL: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://leader_election".into());
    let candidate = |name: &'static str| LockManager::builder().url(&url).name(name).ttl(TTL).build();
    let managers = [("alice", candidate("alice").await?), ("bob", candidate("bob").await?)];
    let candidates = managers.clone().map(|(name, manager)| tokio::spawn(stand(name, manager)));

    let observer = LockManager::connect(&url).await?;
    let mut watch = observer.watch(OFFICE);
    let (mut terms, mut last) = (0, None);
    while terms < 4 {
        // Between two terms the office is free for a moment, which may not be seen.
        let Some(leader) = watch.next().await.ok_or("the watch has ended")?? else { continue };
        // On etcd only the leader knows its token.
        assert!(leader.token.is_none() || last < leader.token, "the terms grow");
        (terms, last) = (terms + 1, leader.token);
        println!("term {terms}: {}", leader.values[0].as_deref().unwrap_or_default());
        sleep(Duration::from_millis(200)).await;
        if terms < 4 {
            // An administrator does at once what a partition or a crash does after the TTL.
            observer.force_unlock(OFFICE).await?;
        }
    }
    for (_, manager) in managers {
        manager.close().await?;
    }
    for candidate in candidates {
        match candidate.await? {
            Err(LockError::Closed { .. }) => {}
            ended => return Err(format!("{ended:?}").into()),
        }
    }
    Ok(())
}

/// Stands for election repeatedly, until the manager is closed.
async fn stand(name: &'static str, manager: LockManager) -> leasehold::Result<()> {
    // The lease is separate: revoking it releases nothing else.
    let office = manager.lock(OFFICE).isolated().value(format!("{name} leads"));
    office
        .lead(|guard| async move {
            loop {
                sleep(Duration::from_millis(50)).await;
                if give_orders(guard.token()).is_break() {
                    // Leads no more, and stands no more.
                    return ControlFlow::Break(());
                }
            }
        })
        .await
}

/// Stands for a message to workers, which ignore a token smaller than the greatest so far.
fn give_orders(_term: FencingToken) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
