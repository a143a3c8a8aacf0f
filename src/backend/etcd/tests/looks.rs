//! Looks at the claims ahead.

use futures::future::join_all;

use super::super::position::{ClaimKey, SeenClaim};
use super::super::release::granted_claim;
use super::*;

fn own(grant: &Grant) -> ClaimKey {
    ClaimKey::clone(&granted_claim(grant).unwrap())
}

/// Looks at all claims at once, in a manager's connection.
async fn removed(client: &Client, claims: &[ClaimKey]) -> Vec<bool> {
    let parts = client.etcd.parts().unwrap();
    let looks = &parts.acquirer.looks;
    let claims: Vec<_> = claims.iter().map(|claim| SeenClaim { claim: claim.clone(), is_waiting: false }).collect();
    join_all(claims.iter().map(|claim| looks.has_changed(claim))).await
}

#[test]
fn many_looks_are_few_requests_and_find_what_was_removed() {
    run(async {
        // So that the looks need several transactions, the first of which is refused.
        let server = Server::start_with(&["--max-txn-ops", "64"]).await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let mut held = Vec::new();
        for n in 0..150 {
            held.push(a.lock(&format!("k{n}")).await);
        }
        let claims: Vec<_> = held.iter().map(own).collect();
        let before = server.0.handled("Txn");
        assert_eq!(removed(&b, &claims).await, [false; 150]);
        assert!(server.0.handled("Txn") - before < 8);
        // Removed, and removed and taken again: the name of the claim is another one, or its create revision.
        a.release(&held[3]).await;
        a.release(&held[149]).await;
        let again = a.lock("k149").await;
        let found = removed(&b, &claims).await;
        let removed: Vec<_> = (0..150).filter(|n| found[*n]).collect();
        assert_eq!(removed, [3, 149]);
        a.release(&again).await;
    });
}

#[test]
fn a_claim_that_may_not_be_read_hides_no_other() {
    run(async {
        let server = Server::start().await;
        let joe = server.limited_to(&["p/"]).await;
        let held = [joe.lock("a").await, joe.lock("b").await, joe.lock("c").await];
        let mut claims: Vec<_> = held.iter().map(own).collect();
        claims.insert(1, ClaimKey { name: (*b"q/not/ours").into(), create: 1 });
        joe.release(&held[1]).await;
        assert_eq!(removed(&joe, &claims).await, [false, false, true, false]);
    });
}
