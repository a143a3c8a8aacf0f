//! The end of a claim: its byte is unlocked, and those whom that frees are woken.

use super::key::KeyFile;
use super::locks::Sees;
use super::mailbox::Message;
use super::peers::Peers;
use super::search::freed;
use super::ticket::Place;
use crate::info::Mode;

/// Unlocks the byte of a claim, and wakes the claims behind it that may hold the key now.
pub(super) fn leave(key: &KeyFile, peers: &Peers, place: Place, mode: Mode) {
    let own = key.unplace(place);
    #[cfg(test)]
    super::gates::pass(super::gates::Gate::Unlocked);
    // A wake of this process costs little, so all look.
    own.iter().for_each(|other| other.wake.notify_one());
    // Those behind a writer of this manager are not freed.
    let own_writer = own.iter().filter(|other| other.mode == Mode::Exclusive).map(|other| other.place).min();
    let end = own_writer.map_or(i64::MAX, Place::byte);
    wake(key, peers, place.byte() + 1..end, mode);
}

/// Wakes the claims of other managers in the range that the end of one of mode `left` below it may have freed.
fn wake(key: &KeyFile, peers: &Peers, range: std::ops::Range<i64>, left: Mode) {
    let sees = match left {
        Mode::Exclusive => Sees::All,
        Mode::Shared => Sees::Writers,
    };
    let mut alive = Vec::new();
    // A waiter that cannot be found out about looks every few seconds.
    let woken = freed(
        left,
        range,
        |range| key.query(sees, range),
        |found| {
            let is_marked = key.state().is_ok_and(|state| state.is_marked);
            let peer = peers.valid(key, found.place, is_marked).ok().flatten();
            let is_alive = peer.is_some();
            alive.extend(peer.map(|(peer, _)| (peer, found.place)));
            is_alive
        },
    );
    if woken.is_ok() {
        for (peer, place) in alive {
            peer.send(Message::Look { inode: key.inode, place });
        }
    }
}
