//! The byte of a claim: the number by which claims are ordered.

use rustix::time::{ClockId, clock_gettime};

/// The number of low bits of a byte that name the lease.
const SLOT_BITS: u32 = 15;

/// The number of slots. The last one of the bits' range stays unused, so that no two claims of one manager are neighbours: the kernel
/// would merge their locks.
pub(super) const SLOTS: u16 = (1 << SLOT_BITS) - 1;

/// The first ticket that does not fit.
const END: u64 = 1 << 48;

/// The place of a claim in the queue of its key: the byte of the key's file that it locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place(i64);

impl Place {
    /// The place of a ticket, on the lease with this slot; `None` if the ticket is too high.
    pub(super) fn new(ticket: u64, slot: u16) -> Option<Self> {
        (ticket < END).then(|| Self(((ticket << SLOT_BITS) | u64::from(slot)).cast_signed()))
    }

    pub(super) fn at(byte: i64) -> Self {
        Self(byte)
    }

    pub(super) fn byte(self) -> i64 {
        self.0
    }

    pub(super) fn slot(self) -> u16 {
        (self.0 & ((1 << SLOT_BITS) - 1)) as u16
    }

    /// The time at which the claim joined the queue, unless it had to take a later ticket.
    pub(super) fn ticket(self) -> u64 {
        self.0.cast_unsigned() >> SLOT_BITS
    }
}

/// Microseconds since the machine was started, including suspend.
pub(super) fn micros() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.cast_unsigned() * 1_000_000 + time.tv_nsec.cast_unsigned() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_ticket_and_a_slot() {
        for (ticket, slot, byte) in [(0, 0, 0), (0, 7, 7), (1, 0, 1 << 15), (1 << 40, 32_766, (1 << 55) | 32_766)] {
            let place = Place::new(ticket, slot).unwrap();
            assert_eq!((place.byte(), place.ticket(), place.slot()), (byte, ticket, slot));
        }
        assert!(Place::new(END - 1, SLOTS - 1).is_some_and(|place| place.byte() > 0));
        assert_eq!(Place::new(END, 0), None);
    }

    #[test]
    fn claims_of_one_manager_are_never_neighbours() {
        // Its tickets differ, and so the last slot of one ticket and the first of the next are the closest.
        let (last, first) = (Place::new(5, SLOTS - 1).unwrap(), Place::new(6, 0).unwrap());
        assert!(first.byte() - last.byte() > 1);
    }
}
