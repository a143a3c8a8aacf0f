//! The background tasks of a manager, which run on the keeper until the manager ends: renewals, and the backend's events.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{Either, FutureExt, select};
use futures::stream::{FuturesUnordered, StreamExt};

use super::early_losses::EarlyLosses;
use super::losses::{leases_are_over, lose_all, on_events};
use super::renewals::renew_all;
use super::sessions::{ROUND, Sessions};
use super::slow_log::{self, report_slow};
use super::{Engine, drop_wait};
use crate::backend::backoff::Backoff;
use crate::process::report::{debug, error};

/// Starts the background tasks.
pub(super) fn start(engine: &Arc<Engine>) {
    let keeper = &engine.base.keeper;
    drop_wait::prepare(engine.base.defaults.drop_wait);
    keeper.spawn(supervise(engine.clone(), keep));
    keeper.spawn(supervise(engine.clone(), listen));
    let watched: Weak<Sessions> = Arc::downgrade(&engine.sessions);
    keeper.watch(watched);
}

/// Runs a task of the manager until it returns. If it panics, all holds are lost, since it may have missed an event, and it is
/// restarted.
async fn supervise<F: Future<Output = ()>>(engine: Arc<Engine>, task: impl Fn(Arc<Engine>) -> F) {
    while AssertUnwindSafe(task(engine.clone())).catch_unwind().await.is_err() {
        let name = engine.base.name();
        error!(target: "leasehold", name = name; "{name}: a background task panicked: all holds are lost");
        lose_all(&engine);
        tokio::time::sleep(ROUND).await;
    }
}

/// Renews and checks the manager's leases until it ends.
async fn keep(engine: Arc<Engine>) {
    let (base, sessions) = (&engine.base, &engine.sessions);
    let mut renewals = FuturesUnordered::new();
    let mut ended = pin!(base.lifecycle.ended());
    let mut reported = base.now();
    loop {
        if base.now().since(reported) > slow_log::EVERY {
            reported = base.now();
            report_slow(&engine);
        }
        sessions.outage_log.report_outage(base);
        engine.keys.nudge_contended();
        let round = sessions.round();
        // After the round: a release that begins meanwhile removes its lease first.
        let is_releasing = engine.cleanup.releases.check(base.now());
        leases_are_over(&engine, round.over);
        if !round.renew.is_empty() {
            let sessions = sessions.clone();
            renewals.push(async move { renew_all(&sessions, round.renew).await });
        }
        let pause = match round.next {
            Some(next) => next.since(base.now()).min(ROUND),
            None if is_releasing || engine.keys.is_contended() || sessions.outage_log.has_outage() => ROUND,
            None => Duration::from_secs(3600),
        };
        let renewed = async {
            if renewals.is_empty() {
                std::future::pending::<()>().await;
            }
            renewals.next().await;
        };
        let (timer, changed, renewed) = (pin!(tokio::time::sleep(pause)), pin!(base.changed()), pin!(renewed));
        match select(select(timer, changed), select(renewed, &mut ended)).await {
            Either::Right((Either::Right(_), _)) => return,
            Either::Left(_) | Either::Right(_) => {}
        }
    }
}

/// Applies the backend's events until the manager ends.
async fn listen(engine: Arc<Engine>) {
    let base = &engine.base;
    let mut ended = pin!(base.lifecycle.ended());
    let mut pauses = Backoff::slow();
    loop {
        match select(base.backend.next_event(), &mut ended).await {
            Either::Left((Ok(event), _)) => {
                let mut events = vec![event];
                while events.len() < EarlyLosses::MOST
                    && let Some(Ok(event)) = base.backend.next_event().now_or_never()
                {
                    events.push(event);
                }
                on_events(&engine, &events);
                pauses = Backoff::slow();
                // A backend that always has an event must not keep the keeper from its other work.
                tokio::task::yield_now().await;
            }
            Either::Left((Err(error), _)) => {
                let name = base.name();
                debug!(target: "leasehold", name = name; "{name}: no events: {error}");
                let pause = pin!(base.recovery.pause(&mut pauses));
                if let Either::Right(_) = select(pause, &mut ended).await {
                    return;
                }
            }
            Either::Right(_) => return,
        }
    }
}
