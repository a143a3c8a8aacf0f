//! What this process has of one key.

use super::{Granted, HoldId, Terms};
use crate::Mode;
use crate::clock::Timestamp;
use crate::owner::Owner;

const DEADLOCK: &str = "the owner holds it shared, and would wait for itself to get it exclusively";
const TOO_DEEP: &str = "it is nested too deep";

/// A grant while this process has it.
#[derive(Debug)]
pub(super) struct Tenure<G: Granted> {
    pub(super) grant: G,
    pub(super) terms: Terms,
    pub(super) since: Timestamp,
    pub(super) handovers: u16,
    /// Whether its long hold has been told of.
    pub(super) told: bool,
    pub(super) holds: Vec<HoldEntry<G::Hold>>,
}

/// One owner's hold in it.
#[derive(Debug)]
pub(super) struct HoldEntry<H> {
    pub(super) id: HoldId,
    pub(super) owner: Owner,
    pub(super) depth: u32,
    pub(super) hold: H,
}

/// Reentrancy: another share for an owner that has a hold which is not lost.
pub(super) fn enter<G: Granted>(
    tenures: &mut [Tenure<G>],
    owner: &Owner,
    mode: Mode,
    now: Timestamp,
) -> Option<Result<(G::Hold, u32), &'static str>> {
    for tenure in tenures {
        let Some(entry) = tenure.holds.iter_mut().find(|entry| entry.owner == *owner) else { continue };
        if !tenure.grant.is_alive(now) {
            continue;
        }
        if tenure.terms.mode == Mode::Shared && mode == Mode::Exclusive {
            return Some(Err(DEADLOCK));
        }
        return Some(deepen::<G>(entry).map(|depth| (entry.hold.clone(), depth)));
    }
    None
}

/// One level deeper.
pub(super) fn deepen<G: Granted>(entry: &mut HoldEntry<G::Hold>) -> Result<u32, &'static str> {
    entry.depth = entry.depth.checked_add(1).ok_or(TOO_DEEP)?;
    G::set_depth(&entry.hold, entry.depth);
    Ok(entry.depth)
}
