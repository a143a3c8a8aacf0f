//! Leases in this process: deadlines, renewal, loss.
//!
//! [`Renewal`] is the pure state machine of one lease; [`LeaseCell`] shares its outcome with the guards, which read it without a
//! mutex. The keeper drives it.

mod cell;
mod flag;
mod renewal;
mod signal;

pub(crate) use self::cell::LeaseCell;
pub(crate) use self::flag::LossFlag;
pub(crate) use self::renewal::{Policy, Renewal, Step};
pub(crate) use self::signal::{Listener, Signal};
