//! Renewals that callers request.

use std::future::IntoFuture;

use futures::future::join_all;
use leasehold::{LockManager, Owner};
use support::redis::Redis;

/// Holders of one session that request a renewal at the same time share requests, since each request renews every hold.
#[tokio::test]
async fn a_thousand_holders_can_have_a_proof_at_the_same_time() {
    let server = Redis::start();
    let manager = LockManager::builder().url(format!("{}?ttl=6s", server.url())).build().await.unwrap();
    let lock = |n: usize| manager.lock(format!("k{n}")).owner(&Owner::new()).into_future();
    let guards = join_all((0..1_000).map(lock)).await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    let before = manager.stats().renewals;
    for proof in join_all(guards.iter().map(|guard| guard.renew())).await {
        proof.unwrap();
    }
    let made = manager.stats().renewals - before;
    assert!(made < 100, "{made} renewals of one session for a thousand proofs");
}
