//! The log of holds and waits that last for over a minute.

use std::time::Duration;

use tokio::time::timeout;

use super::Engine;
use super::lookup::LONGEST;
use crate::arbiter::SlowReport;
use crate::process::report::warn;

/// The duration from which a hold or a wait is logged.
const LONG: Duration = Duration::from_secs(60);
/// The interval of the checks.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// Logs each hold and each wait that has lasted for a minute, once.
pub(super) fn report_slow(engine: &Engine) {
    let now = engine.base.now();
    for entry in engine.keys.all() {
        let SlowReport { held, waited, own } = entry.arbiter().report_slow(LONG, now);
        let (name, key) = (engine.base.name(), entry.key.as_ref());
        if held {
            warn!(target: "leasehold", name = name, key = key; "{name}: lock {key:?} held for over {LONG:?}");
        }
        if waited {
            let (base, entry) = (engine.base.clone(), entry.clone());
            engine.base.keeper.spawn(async move {
                let holder = match timeout(LONGEST, entry.look_up(now)).await {
                    Ok(Ok(Some(holder))) => format!("held by {holder}"),
                    Ok(Ok(None)) => "held by an unknown client".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => base.no_answer(LONGEST).to_string(),
                };
                let (name, key) = (base.name(), entry.key.as_ref());
                let own = if own { ", by another owner of the same task or thread" } else { "" };
                warn!(target: "leasehold", name = name, key = key; "{name}: lock {key:?} has been waited for over {LONG:?}: {holder}{own}");
            });
        }
    }
}
