//! The test suite for backends: cases for two managers on one store, through the public API only.
//!
//! Each case is an async function that panics if it fails. Its keys are random, so cases can share a server and run concurrently. Each
//! run gets a new pair of managers, which the case may close.
//!
//! # Examples
//!
//! Tests of your own backend, in `tests/conformance.rs`. The macro generates one test for each case:
//!
//! ```
//! use leasehold::LockManager;
//! # use leasehold::testing::MemoryStore as MyServer;
//!
//! /// Two managers with separate connections, like two processes.
//! async fn pair() -> (LockManager, LockManager) {
//!     let server = MyServer::named("conformance");
//!     let connect = async |name: &str| LockManager::builder().backend(server.link()).name(name).build().await.unwrap();
//!     (connect("a").await, connect("b").await)
//! }
//!
//! leasehold::conformance_tests!(pair);
//! ```
//!
//! `cargo test --test conformance tokens` runs the cases with "tokens" in their names; `LEASEHOLD_REPEAT=100` repeats each case a
//! hundred times. [`run`], [`run_all`] and [`all`] run cases without the macro:
//!
//! ```
//! # use leasehold::LockManager;
//! use leasehold::testing::conformance;
//!
//! # fn main() {
//! let case = "exclusive_holds_exclude_each_other";
//! assert!(conformance::all().iter().any(|(name, _)| *name == case));
//! conformance::run(case, async || {
//!     let connect = async || LockManager::connect("memory://conformance").await.unwrap();
//!     (connect().await, connect().await)
//! });
//! # }
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a case fails by a panic")]

mod cases;
mod support;

use std::time::Duration;

use futures::future::BoxFuture;

use crate::LockManager;

/// A case, called with two managers on the same store. It panics if it fails.
pub type Case = fn(LockManager, LockManager) -> BoxFuture<'static, ()>;

/// The time limit of a case.
const LIMIT: Duration = Duration::from_secs(30);

/// The list of all cases; a case that is not in it is unused code. It generates the public modules, the list for [`all`], and the
/// tests of [`conformance_tests`](crate::conformance_tests).
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ([$($with:tt)*] $($argument:tt)*) => {
        $($with)*! {
            [$($argument)*]
            /// At most one owner holds a key exclusively, across managers, tasks and threads.
            exclusion: exclusive_holds_exclude_each_other, threads_and_tasks_exclude_each_other,
                a_waiter_gets_the_lock_when_it_is_released, waiters_of_one_key_do_not_hold_up_another;
            /// Waiters are served in order: first come, first served.
            order: waiters_of_a_process_are_served_in_order, waiters_of_two_managers_are_served_in_order,
                try_lock_does_not_overtake_a_local_waiter, try_lock_does_not_overtake_a_waiter_elsewhere,
                a_busy_process_lets_another_in;
            /// `try_lock`, timeouts and retry limits.
            attempts: try_lock_reports_whether_the_lock_is_free, try_lock_works_right_after_a_drop, try_lock_works_on_a_thread,
                a_timeout_names_the_holder, a_timeout_within_a_process_names_the_holder, a_timeout_leaves_no_claim,
                try_for_waits_for_a_while, the_end_of_try_for_races_the_grant, retries_bound_the_wait, a_timeout_on_a_thread;
            /// Reentrancy: the owner of a hold enters it again without waiting; other owners wait.
            reentrancy: a_task_enters_again, a_tokio_root_enters_again, a_root_of_another_executor_enters_again,
                a_thread_enters_again, a_task_that_changes_threads_enters_again, an_owner_enters_from_another_task,
                a_second_guard_goes_to_another_task, branches_of_a_join_are_one_owner, another_manager_is_another_owner,
                an_exclusive_holder_shares_with_itself, a_shared_holder_cannot_become_exclusive,
                unlock_counts_down_to_the_last_guard, a_moved_guard_keeps_its_owner;
            /// Different owners of one process exclude each other as two processes do.
            owners: two_tasks_exclude_each_other, a_spawned_child_is_another_owner, futures_of_a_set_exclude_each_other,
                tasks_at_the_same_address_exclude_each_other, threads_exclude_each_other, owners_exclude_each_other,
                threads_on_one_runtime_exclude_each_other, closures_of_one_key_exclude_each_other;
            /// Fencing tokens grow.
            tokens: tokens_grow_from_manager_to_manager, tokens_grow_within_a_process, tokens_grow_over_a_force_unlock,
                tokens_of_readers_lie_between_those_of_writers, guards_of_a_hold_have_its_token;
            /// Shared holds exclude exclusive ones only.
            shared: readers_hold_together_and_writers_alone, a_reader_waits_behind_a_waiting_writer,
                a_reader_elsewhere_waits_behind_a_waiting_writer, readers_wake_together, a_writer_is_not_starved,
                tries_to_share_get_in_together;
            /// Guards and requests may be dropped anywhere.
            dropping: a_guard_may_be_dropped_after_the_runtime, a_guard_may_be_dropped_in_a_panic,
                an_unlock_that_is_not_polled_releases, an_unlock_that_is_dropped_halfway_releases,
                a_request_that_is_not_polled_does_nothing, a_guard_outlives_its_manager, unlock_returns_when_the_lock_is_free;
            /// A future that is dropped at any point leaves nothing behind.
            cancellation: an_acquire_may_be_dropped_at_any_poll, a_local_waiter_may_be_dropped_at_any_poll,
                a_waiter_at_the_server_may_be_dropped_at_any_poll, a_timeout_that_races_the_grant_leaves_nothing,
                aborted_tasks_leave_nothing, a_cancelled_waiter_lets_the_next_one_in, a_try_lock_may_be_dropped_at_any_poll;
            /// `force_unlock`, and the evicted holders.
            eviction: force_unlock_names_the_holder, force_unlock_reports_what_else_was_lost, key_only_takes_no_other_key,
                an_isolated_hold_has_a_separate_lease, force_unlock_of_a_free_key_is_no_error, an_evicted_holder_recovers,
                an_unlock_after_an_eviction_fails, an_unlock_before_the_next_request_fails_after_an_eviction,
                unlocks_that_meet_fail_for_evicted_holds_only,
                a_lost_guard_leaves_its_successor_alone, all_readers_are_evicted, force_unlock_of_ones_own_lock,
                force_unlock_lets_the_next_waiter_in, force_unlock_revokes_only_the_claim_that_was_seen,
                force_unlock_revokes_only_the_readers_that_were_seen, expecting_refuses_an_info_that_cannot_be_compared;
            /// Holds that end before their guards.
            loss: a_normal_unlock_is_no_loss, run_returns_what_the_work_returns, run_drops_the_work_at_the_loss,
                a_lost_hold_is_not_entered_again, max_hold_ends_a_hold, a_hold_without_renewal_expires,
                a_hold_without_renewal_counts_from_its_grant,
                a_renewal_by_hand_prolongs_the_hold, a_hold_outlives_its_ttl, remaining_is_within_the_ttl,
                only_held_keys_can_be_renewed;
            /// Semaphores: up to a number of holders.
            slots: no_more_than_the_limit_hold_a_key, a_crowd_never_exceeds_the_limit, slots_exclude_other_kinds_of_holds,
                holders_with_different_limits_agree, each_departure_lets_the_first_waiter_in, each_acquire_takes_a_slot,
                all_slots_are_evicted;
            /// Values of holders, the states of a key, and whether a hold is wanted.
            values: values_are_published_while_the_lock_is_held, a_value_is_not_handed_over, a_watch_sees_the_holders_change,
                close_ends_a_watch, a_holder_learns_that_others_wait, a_reader_is_wanted_by_writers_only;
            /// `lead`: one term after another.
            leading: candidates_lead_one_after_another, a_lost_term_is_followed_by_another, leading_ends_with_its_manager,
                a_panic_in_the_work_ends_the_term, a_dropped_leader_is_replaced;
            /// `info`, `list`, `stats` and `ping`.
            inspection: info_names_holders_and_counts_waiters, info_has_the_start_of_the_hold, info_lists_all_readers, list_has_exactly_the_keys_of_a_prefix,
                similar_keys_are_different_locks, is_held_and_is_locked, stats_count, stats_time_waits_and_holds,
                stats_count_losses_by_cause, the_server_answers_a_ping;
            /// `close()`.
            closing: close_releases_and_notifies, close_fails_waiters_and_later_calls, close_may_be_called_again,
                a_closed_manager_leaves_others_alone;
            /// `lock_all`: all keys or none.
            several: guards_are_in_the_order_of_the_request, a_repeated_key_has_depth_two, keys_that_the_owner_holds_are_entered_at_once,
                all_or_none_within_the_timeout, trying_several_takes_all_or_none, several_may_be_dropped_while_they_wait,
                any_order_is_free_of_deadlock, the_loss_of_one_is_the_loss_of_all,
                a_key_lost_while_waiting_is_locked_again, options_apply_to_each_key_and_an_empty_list_is_refused;
            /// `with_lock` and other closures under a lock.
            closures: with_lock_returns_what_the_work_returns, closures_work_inside_of_tasks,
                try_with_lock_reports_whether_the_lock_is_free, a_panic_in_the_work_releases, a_loss_drops_the_work,
                a_loss_wins_over_the_result, wait_with_reports_a_loss, a_closure_may_be_dropped_halfway;
            /// Validation of keys and options.
            input: bad_keys_are_refused_at_once, bad_durations_are_refused_at_once, the_longest_key_works,
                handles_are_one_object_for_each_key, unused_keys_are_removed;
        }
    };
}

macro_rules! list {
    ([] $($(#[$about:meta])* $topic:ident: $($name:ident),*;)*) => {
        &[$($((stringify!($name), |a, b| Box::pin($topic::$name(a, b)))),*),*]
    };
}

macro_rules! export {
    ([] $($(#[$about:meta])* $topic:ident: $($name:ident),*;)*) => {
        $(
            $(#[$about])*
            pub mod $topic {
                pub use super::cases::$topic::{$($name),*};
            }
        )*
    };
}

__conformance_cases!([export]);

/// Generates a `#[test]` for each case, with the name of the case, in the current module. The argument is an `async fn` without
/// parameters that returns two managers on the same store.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::__conformance_cases!([$crate::__conformance_tests] $make);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ([$make:path] $($(#[$about:meta])* $topic:ident: $($name:ident),*;)*) => {
        $($(
            #[test]
            fn $name() {
                $crate::testing::conformance::run(stringify!($name), $make);
            }
        )*)*
    };
}

/// Returns the names and functions of all cases.
pub fn all() -> &'static [(&'static str, Case)] {
    const ALL: &[(&str, Case)] = __conformance_cases!([list]);
    ALL
}

/// Runs one case in a new tokio runtime with managers from `make`: once, or as many times as the environment variable
/// `LEASEHOLD_REPEAT` specifies.
///
/// # Panics
///
/// If the case fails or takes more than 30 seconds, if there is no case with this name, or if `LEASEHOLD_REPEAT` is not a number.
pub fn run(name: &str, make: impl AsyncFn() -> (LockManager, LockManager)) {
    let case = all().iter().find(|(known, _)| *known == name);
    let (_, case) = case.unwrap_or_else(|| panic!("there is no case {name:?}"));
    let runtime = support::runtime();
    for _ in 0..repetitions() {
        runtime.block_on(run_once(name, *case, &make));
    }
}

/// Runs all cases one after another, each with new managers from `make`.
///
/// # Panics
///
/// If a case fails or takes more than 30 seconds, with its name, and outside of a tokio runtime.
pub async fn run_all(make: impl AsyncFn() -> (LockManager, LockManager)) {
    for (name, case) in all() {
        run_once(name, *case, &make).await;
    }
}

async fn run_once(name: &str, case: Case, make: &impl AsyncFn() -> (LockManager, LockManager)) {
    let (a, b) = make().await;
    // In a task, so that the owner that the case starts with does not depend on its caller.
    let mut running = tokio::spawn(case(a.clone(), b.clone()));
    match tokio::time::timeout(LIMIT, &mut running).await {
        Ok(Ok(())) => {}
        Ok(Err(failed)) => panic!("{name} failed: {}", support::reason(failed)),
        Err(_) => {
            running.abort();
            panic!("{name} took more than {LIMIT:?}: {:?} and {:?}", a.stats(), b.stats());
        }
    }
    for manager in [a, b] {
        let closed = manager.close().await;
        assert!(closed.is_ok(), "{name}: the manager cannot be closed afterwards: {closed:?}");
    }
}

fn repetitions() -> u32 {
    let wanted = std::env::var("LEASEHOLD_REPEAT").ok();
    wanted.map_or(1, |text| text.parse().unwrap_or_else(|_| panic!("LEASEHOLD_REPEAT is not a number: {text:?}")))
}
