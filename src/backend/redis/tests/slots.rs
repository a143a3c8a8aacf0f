//! Slots: holds of a limited number.

use super::*;

impl Client {
    fn slot(&self, lease: Lease, limit: u32) -> Claim {
        let mut claim = self.claim_on(lease, "k", Mode::Shared);
        claim.limit = Some(limit);
        claim
    }

    async fn take_slot(&self, lease: Lease, limit: u32) -> Grant {
        let claim = self.slot(lease, limit);
        let granted = tokio::time::timeout(LIMIT, self.redis.acquire(&claim, Wait::UntilGranted));
        granted.await.expect("not granted").unwrap().unwrap()
    }

    async fn lease(&self, ttl: Duration) -> Lease {
        self.redis.open(ttl, LeaseScope::Session).await.unwrap()
    }
}

#[test]
fn a_slot_is_taken_when_the_first_one_ends_not_the_last() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let short = holder.lease(Duration::from_secs(3)).await;
        holder.take_slot(holder.lease, 2).await;
        holder.take_slot(short, 2).await;
        let begun = Instant::now();
        waiter.take_slot(waiter.lease, 2).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_waiter_that_has_become_the_first_takes_a_slot_that_ends() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let short = holder.lease(Duration::from_secs(4)).await;
        let leaving = holder.take_slot(holder.lease, 3).await;
        holder.take_slot(holder.lease, 3).await;
        holder.take_slot(short, 3).await;
        let first = holder.slot(holder.lease, 3);
        let first = holder.redis.acquire(&first, Wait::UntilGranted);
        let second = async {
            holder.queued("k", 1).await;
            let granting = waiter.take_slot(waiter.lease, 3);
            let leaving = async {
                holder.queued("k", 2).await;
                holder.release(&leaving).await;
                Instant::now()
            };
            let (_, begun) = tokio::join!(granting, leaving);
            assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        };
        let (first, ()) = tokio::join!(first, second);
        first.unwrap().unwrap();
    });
}

#[test]
fn a_slot_that_ends_is_taken_although_the_first_waiter_is_dead() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let short = holder.lease(Duration::from_secs(4)).await;
        holder.take_slot(holder.lease(Duration::from_secs(30)).await, 2).await;
        holder.take_slot(short, 2).await;
        let dead = Client::new(&server).await;
        let abandoned = dead.slot(dead.lease, 2);
        assert!(
            tokio::time::timeout(Duration::from_millis(200), dead.redis.acquire(&abandoned, Wait::UntilGranted))
                .await
                .is_err()
        );
        dead.redis.close().await.unwrap();
        let begun = Instant::now();
        let granted = waiter.take_slot(waiter.lease, 2).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(waiter.redis.inspect("k").await.unwrap().unwrap().limit, Some(2));
        waiter.release(&granted).await;
    });
}

#[test]
fn a_slot_is_renewed_and_lost_alone() {
    run(async {
        let server = Server::start();
        let (one, other) = pair(&server).await;
        let (lost, kept) = (one.take_slot(one.lease, 2).await, other.take_slot(other.lease, 2).await);
        assert!(kept.epoch > lost.epoch, "each has its own");
        assert!(one.renew().await.is_ok() && other.renew().await.is_ok());
        let readers = one.attempt(&lost).name.readers.clone();
        server.run::<()>(&format!("ZREM {readers} {}", one.attempt(&lost).claim.as_str()));
        one.renew().await.unwrap();
        assert_eq!(one.event(LIMIT).await, Event::ClaimLost(lost.attempt));
        other.renew().await.unwrap();
        other.no_event().await;
        assert_eq!(server.run::<String>("GET lock:k"), format!("limited:2:{}", lost.epoch));
        other.release(&kept).await;
        let is_common = |key: &String| key.contains("%clock:") || key.contains("%lives:");
        assert!(server.keys().iter().all(is_common), "{:?}", server.keys());
    });
}
