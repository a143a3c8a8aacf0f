//! Fencing tokens.

use std::fmt;

/// The number of low bits of a token that count the local handovers of one grant.
pub(crate) const HANDOVER_BITS: u32 = 10;

/// A fencing token: a number that grows with every new exclusive hold of a key.
///
/// Pass it to the resource that the lock protects, and let the resource refuse a token smaller than the greatest it has seen. A
/// holder that was paused past its lease then cannot do harm when it resumes
/// ([Kleppmann, 2016](https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html)).
///
/// A token is the backend's epoch shifted left by ten bits, plus the number of local handovers of the grant within this process.
/// The token of a shared hold lies between those of the exclusive holds before and after it; several shared holds can have the same
/// token. Tokens can exceed 2^53: compare them as 64-bit integers, never as floats.
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let first = manager.lock("k").await?.token();
/// let second = manager.lock("k").await?.token();
/// assert!(second > first);
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// Returns the token of a grant with this epoch, without local handovers: for [`LockInfo::token`](crate::LockInfo::token) of a
    /// [`Backend`](crate::backend::Backend). `epoch` must be below 2^54: the higher bits of a greater one are cut off.
    ///
    /// ```
    /// assert_eq!(leasehold::FencingToken::of_epoch(7).get(), 7 << 10);
    /// ```
    pub const fn of_epoch(epoch: u64) -> Self {
        Self(epoch << HANDOVER_BITS)
    }

    /// The token of the `handovers`-th local hold of the grant with this epoch.
    pub(crate) fn of_grant(epoch: u64, handovers: u16) -> Self {
        Self(Self::of_epoch(epoch).0 | u64::from(handovers))
    }

    /// Returns the token as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for FencingToken {
    fn from(token: u64) -> Self {
        Self(token)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

/// Serialized as a string, because many JSON readers convert numbers to floats.
#[cfg(feature = "serde")]
impl serde::Serialize for FencingToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for FencingToken {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}
