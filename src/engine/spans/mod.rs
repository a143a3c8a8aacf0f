//! The spans of waits and holds, for `tracing`. Without the feature they are nothing.
//!
//! Spans are never entered: a hold is no part of the call that acquired it, and the work under it is the user's.

#[cfg(feature = "tracing")]
mod traced;
#[cfg(not(feature = "tracing"))]
mod untraced;

#[cfg(feature = "tracing")]
pub(super) use self::traced::{HoldSpan, WaitSpan};
#[cfg(not(feature = "tracing"))]
pub(super) use self::untraced::{HoldSpan, WaitSpan};
