//! What a claim asks for, as the name of its key shows it.

use crate::backend::Claim;
use crate::info::Mode;

/// The kind of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// It holds the key alone.
    Exclusive,
    /// It holds the key beside any number of its kind.
    Shared,
    /// It holds a slot: the key beside others of its kind, up to this number with itself.
    Slot(u32),
}

impl Kind {
    /// Returns the kind of a claim.
    pub(super) fn of(claim: &Claim) -> Self {
        match (claim.limit, claim.mode) {
            (Some(limit), _) => Self::Slot(limit),
            (None, Mode::Exclusive) => Self::Exclusive,
            (None, Mode::Shared) => Self::Shared,
        }
    }

    /// Returns the mode in which it holds the key.
    pub(super) fn mode(self) -> Mode {
        if self == Self::Exclusive { Mode::Exclusive } else { Mode::Shared }
    }

    /// Returns the limit of a slot.
    pub(super) fn limit(self) -> Option<u32> {
        match self {
            Self::Slot(limit) => Some(limit),
            Self::Exclusive | Self::Shared => None,
        }
    }
}
