//! The guide, by chapters.
//!
//! The [crate's page](crate) is the overview: a first program, the choice of a backend and of a TTL, what is guaranteed and what is
//! not. These chapters go into one matter each.
//!
//! | | |
//! | --- | --- |
//! | [`ownership`] | Who holds a lock: tasks, threads, explicit owners; reentrancy, sharing, several keys |
//! | [`loss`] | How a loss is told, what comes first, and how to write code that takes it well |
//! | [`fencing`] | What to do about a holder that comes too late |
//! | [`cancellation`] | What happens to futures, guards, managers and processes that end early |
//! | [`testing`] | Tests of your own code against lost locks |
//! | [`etcd`] | etcd: what a failure does, other clients, what is on the server |
//! | [`redis`] | Redis: replication, other clients, accounts, what is on the server |
//! | [`security`] | Who is trusted with what, on each backend; permissions and transport |
//! | [`faults`] | What happens when something fails: a list of faults on each backend, with what was measured |
//! | [`parity`] | What users of other lock libraries look for, where it is here, and which tests show it |

#[doc = include_str!("../docs/ownership.md")]
pub mod ownership {}

#[doc = include_str!("../docs/loss.md")]
pub mod loss {}

#[doc = include_str!("../docs/fencing.md")]
pub mod fencing {}

#[doc = include_str!("../docs/cancellation.md")]
pub mod cancellation {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/etcd.md")]
pub mod etcd {}

#[doc = include_str!("../docs/redis.md")]
pub mod redis {}

#[doc = include_str!("../docs/security.md")]
pub mod security {}

#[doc = include_str!("../docs/faults.md")]
pub mod faults {}

#[doc = include_str!("../docs/parity.md")]
pub mod parity {}
