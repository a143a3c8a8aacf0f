//! Closing a manager.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::cleanup::Job;
use super::sessions::ROUND;
use crate::info::Loss;

/// Closes the manager: all holds are lost, all leases revoked, waiters fail.
///
/// Returns whether the server has confirmed everything within `bound`.
pub(crate) async fn close(engine: Arc<Engine>, bound: Duration) -> bool {
    let base = &engine.base;
    base.lifecycle.close();
    let now = base.now();
    let cells = engine.sessions.drain();
    for cell in &cells {
        cell.lose(Loss::Closed, now);
    }
    for entry in engine.keys.all() {
        entry.close(now);
    }
    for cell in cells {
        engine.cleanup.run(cell, Job::Revoke);
    }
    let confirmed = tokio::time::timeout(bound, engine.cleanup.all_confirmed()).await.is_ok();
    if !base.lifecycle.end() {
        return confirmed;
    }
    if !confirmed {
        // Releases need the backend until the server has confirmed them or their leases have ended.
        let engine = engine.clone();
        base.keeper.spawn(async move {
            // The background task that repeats what is overdue has ended.
            while tokio::time::timeout(ROUND, engine.cleanup.all_confirmed()).await.is_err() {
                engine.cleanup.releases.check(engine.base.now());
            }
            // There is no caller left to report to.
            let _ = engine.base.backend.close().await;
        });
        return false;
    }
    tokio::time::timeout(bound, base.backend.close()).await.is_ok_and(|closed| closed.is_ok())
}
