//! The cases. The modules are private, so the compiler reports a case that is missing in the list.

pub(super) mod attempts;
pub(super) mod cancellation;
pub(super) mod closing;
pub(super) mod closures;
pub(super) mod dropping;
pub(super) mod eviction;
pub(super) mod exclusion;
pub(super) mod input;
pub(super) mod inspection;
pub(super) mod leading;
pub(super) mod loss;
pub(super) mod order;
pub(super) mod owners;
pub(super) mod reentrancy;
pub(super) mod several;
pub(super) mod shared;
pub(super) mod slots;
pub(super) mod tokens;
pub(super) mod values;

use super::support;
