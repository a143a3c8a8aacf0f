//! The queue of a key: how a claim joins it, and what is before it.

use std::sync::Arc;

use tokio::sync::Notify;

use super::claim::Placed;
use super::error::failed;
use super::key::{KeyFile, KeyState};
use super::life::Life;
use super::locks::Sees;
use super::peers::{Peer, Peers};
use super::search::nearest_below;
use super::ticket::{Place, micros};
use crate::backend::{AttemptId, Result, Timestamp};
use crate::info::Mode;

/// What is before a claim.
#[derive(Debug)]
pub(super) enum Before {
    Nothing,
    /// A claim of the same manager.
    Own,
    /// A claim of another manager at this place, which counts until this time at least.
    Other(Arc<Peer>, Timestamp, Place),
}

/// For how long a new claim may be on its way into the queue, or out of it again.
const UNDECIDED_MICROS: u64 = 2000;

impl Before {
    /// Whether it is likely to be gone in a moment, without having held the key: a sweep, or a claim that has just joined the queue and
    /// may leave it again, because of the very claim that sees it.
    pub(super) fn is_undecided(&self, key: &KeyFile) -> bool {
        let Self::Other(peer, _, place) = self else { return false };
        let is_new = micros().saturating_sub(place.ticket()) < UNDECIDED_MICROS;
        peer.record.is_sweep() || (is_new && key.shown().is_none_or(|(granted, _)| granted != *place))
    }
}

/// Joins the queue at its end: of two claims that count, the later one has seen the earlier one.
pub(super) fn join(
    attempt: AttemptId,
    key: &Arc<KeyFile>,
    mode: Mode,
    life: &Arc<Life>,
    peers: &Arc<Peers>,
    wake: &Arc<Notify>,
    ticket: Option<u64>,
) -> Result<Placed> {
    let mut ticket = ticket.unwrap_or_else(micros);
    loop {
        let placed = Placed::take(attempt, key, (ticket, mode), life, peers, wake)?;
        #[cfg(test)]
        super::gates::pass(super::gates::Gate::Placed);
        let above = key.query(Sees::All, placed.place.byte() + 1..i64::MAX);
        match above.map_err(|error| failed("look at the queue", error))? {
            None => return Ok(placed),
            // A claim that has checked meanwhile waits for the place that is given up here, and is woken.
            Some(above) => {
                drop(placed);
                ticket = micros().max(above.place.ticket() + 1);
            }
        }
    }
}

/// Looks for the nearest claim before `place` that excludes one of this mode. Claims that are void do not count.
pub(super) fn look(key: &KeyFile, peers: &Peers, place: Place, mode: Mode, state: KeyState) -> Result<Before> {
    let own = key.own_below(place, mode);
    let start = own.map_or(0, |own| own.byte() + 1);
    let mut end = place.byte();
    loop {
        let nearest = nearest_below(start..end, |range| key.query(Sees::blockers_of(mode), range));
        let Some(found) = nearest.map_err(|error| failed("look at the queue", error))? else {
            return Ok(if own.is_some() { Before::Own } else { Before::Nothing });
        };
        if let Some((peer, until)) = peers.valid(key, found.place, state.is_marked)? {
            return Ok(Before::Other(peer, until, found.place));
        }
        end = found.place.byte();
    }
}
