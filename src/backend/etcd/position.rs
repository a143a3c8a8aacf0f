//! Claims on the server, and what a claim sees ahead of it.

use etcd_client::proto::PbKeyValue;
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp};

use super::names::{Directory, Name};

/// A claim on the server, by its name and its create revision: names are reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClaimKey {
    pub(super) name: Name,
    pub(super) create: i64,
}

impl ClaimKey {
    /// Returns the condition that the claim exists.
    pub(super) fn exists(&self) -> Compare {
        Compare::create_revision(&*self.name, CompareOp::Equal, self.create)
    }

    /// Deletes the claim, and no other one of the same name.
    pub(super) fn delete(&self) -> Txn {
        Txn::new().when([self.exists()]).and_then([TxnOp::delete(&*self.name, None::<DeleteOptions>)])
    }
}

/// A claim ahead of another one, as that has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenClaim {
    pub(super) claim: ClaimKey,
    /// Whether it is a slot that waits, and will be touched when it holds the key.
    pub(super) is_waiting: bool,
}

impl SeenClaim {
    /// Returns the condition that it has not changed.
    pub(super) fn is_unchanged(&self) -> Compare {
        if self.is_waiting {
            return Compare::mod_revision(&*self.claim.name, CompareOp::Equal, self.claim.create);
        }
        self.claim.exists()
    }

    /// Returns whether it is what was found under its name.
    pub(super) fn is(&self, found: &PbKeyValue) -> bool {
        found.create_revision == self.claim.create && (!self.is_waiting || found.version == 1)
    }
}

/// The position of a claim in its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Nothing blocks it.
    First,
    /// Nothing blocks this slot, and there are slots behind it.
    Followed,
    /// It waits for this.
    Behind(Ahead),
    /// It is not in the queue.
    Missing,
    /// It has to be read again with more slots, those that could fit with this limit.
    Unclear { limit: u32 },
}

/// What a claim waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// A change of a claim ahead.
    Claim(SeenClaim),
    /// The removal of any of these slots, which hold the key.
    Slots(Vec<Name>),
}

impl Ahead {
    /// Returns the name of a claim that blocks.
    pub(super) fn name(&self) -> Option<&Name> {
        match self {
            Self::Claim(ahead) => Some(&ahead.claim.name),
            Self::Slots(names) => names.last(),
        }
    }

    /// Returns whether the same watch reports what is waited for.
    pub(super) fn is_watched_like(&self, other: &Self) -> bool {
        self == other || matches!((self, other), (Self::Slots(_), Self::Slots(_)))
    }
}

impl Position {
    /// Reads the position from the answer to [`read_position`](super::txn::read_position). An earlier claim with the same name is another one. `None` if the answer
    /// makes no sense.
    pub(super) fn read<'a>(
        directory: &Directory,
        own: &ClaimKey,
        seen: impl Iterator<Item = &'a PbKeyValue> + Clone,
    ) -> Option<Self> {
        if seen.clone().any(|found| *found.key == *own.name && found.create_revision == own.create) {
            Self::behind(directory, own, seen)
        } else {
            Some(Self::Missing)
        }
    }

    /// Reads the position of a claim that is in the queue.
    pub(super) fn behind<'a>(
        directory: &Directory,
        own: &ClaimKey,
        seen: impl Iterator<Item = &'a PbKeyValue>,
    ) -> Option<Self> {
        let ahead = seen.filter(|found| *found.key != *own.name).max_by_key(|found| found.create_revision);
        let Some(ahead) = ahead else { return Some(Self::First) };
        // ⚠ Newer claims were not requested: such a claim may be a waiter behind this one, and each would wait for the other.
        let is_ahead = directory.contains(&ahead.key) && ahead.create_revision < own.create;
        let claim = || ClaimKey { name: ahead.key.as_slice().into(), create: ahead.create_revision };
        is_ahead.then(|| Self::Behind(Ahead::Claim(SeenClaim { claim: claim(), is_waiting: false })))
    }
}

/// The state of the store that a read may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// The present state of the cluster: the member confirms with the leader first, and waits for its writes.
    Linearizable,
    /// The state of the member that answers, which may lag behind.
    ///
    /// It proves that a claim is first: a state that has the claim, by its create revision, is not older than the claim; older claims
    /// can only be removed, and never return; so the claim held the key at that revision, whatever the member has missed since. It
    /// proves nothing else.
    Serializable,
}

/// Returns the options of a read without values.
pub(super) fn keys_only(freshness: Freshness) -> GetOptions {
    let options = GetOptions::new().with_keys_only();
    if freshness == Freshness::Serializable { options.with_serializable() } else { options }
}
