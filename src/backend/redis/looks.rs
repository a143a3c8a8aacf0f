//! Looks: what waiters read of their locks each second, by plain commands in one write.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::attempt::{Attempt, HANDOVER_TTL};
use super::batch::Batch;
use super::claims::Claims;
use super::orphans;
use super::place::{Look, Looked, Seen};
use super::polling::Due;
use super::router::Router;
use crate::backend::{ErrorKind, Result};
use crate::info::Mode;
use crate::process::report::debug;

/// How many locks one command reads.
const SLICE: usize = 128;

/// The TTL of a queue, in milliseconds.
const QUEUE_TTL: u64 = 60_000;

/// The least score of a claim in a queue. The ears are before it.
const FIRST_PLACE: u64 = 1_000_000_000_000_000;

/// A waiter, and what it looks at apart from the lock.
type Waiter = (Arc<Attempt>, Look);

/// Checks the waiters that are due, without end.
pub(super) async fn poll_waiters(router: Arc<Router>, batch: Arc<Batch>, claims: Arc<Claims>) {
    loop {
        let due = batch.due().await;
        due.ask.iter().for_each(|attempt| router.acquire(attempt));
        let suspects = look(&router, &batch, &claims, &due).await;
        if !suspects.is_empty() {
            // The next look does not wait for it.
            let (router, claims) = (router.clone(), claims.clone());
            tokio::spawn(async move { orphans::remove(&router, &claims, &suspects).await });
        }
    }
}

/// Looks for all that are due, and asks for those that may have their lock, or may have lost their place. Returns those whose lock an
/// orphan may hold.
async fn look(router: &Arc<Router>, batch: &Arc<Batch>, claims: &Claims, due: &Due) -> Vec<Arc<Attempt>> {
    let mut suspects = Vec::new();
    let begin = |attempt: &Arc<Attempt>| attempt.begin_look(due.places).map(|look| (attempt.clone(), look));
    let mut waiters: Vec<Waiter> = due.look.iter().filter_map(begin).collect();
    let sent = batch.now();
    let slices = slices(&mut waiters, batch.is_by_slot());
    let looks = join_all(slices.iter().map(|slice| read(batch, slice))).await;
    for (slice, seen) in slices.into_iter().zip(looks) {
        match seen {
            Ok(seen) => {
                for ((attempt, _), seen) in slice.iter().zip(seen) {
                    if seen.as_ref().is_some_and(|seen| orphans::is_suspect(claims, attempt, seen, due.doubt)) {
                        suspects.push(attempt.clone());
                    }
                    match attempt.looked(seen.as_ref(), sent, Instant::now()) {
                        Looked::Ask => router.acquire(attempt),
                        Looked::Poll(at) => router.plan(attempt, at),
                        Looked::PollNew(at) => {
                            router.plan(attempt, at);
                            // The next look does not wait for it.
                            tokio::spawn(poll_at_end_of_handover(batch.clone(), attempt.clone()));
                        }
                        Looked::Nothing => {}
                    }
                }
            }
            Err(error) => {
                debug!(target: "leasehold::redis", "waiters could not look: {error}");
                for (attempt, _) in slice {
                    // The slot may be at another node.
                    if batch.is_by_slot() && error.kind() != ErrorKind::Unreachable {
                        router.acquire(attempt);
                    } else {
                        router.plan(attempt, attempt.look_failed(Instant::now()));
                    }
                }
            }
        }
    }
    suspects
}

/// Distributes waiters to commands, in a cluster by slot.
fn slices(waiters: &mut [Waiter], are_by_slot: bool) -> Vec<&[Waiter]> {
    if !are_by_slot {
        return waiters.chunks(SLICE).collect();
    }
    waiters.sort_by_key(|(attempt, _)| attempt.name.slot);
    let of_slots = waiters.chunk_by(|(one, _), (other, _)| one.name.slot == other.name.slot);
    of_slots.flat_map(|waiters| waiters.chunks(SLICE)).collect()
}

/// Plans a poll for the time when the handover to a new holder ends, unless it is confirmed already: that holder may be dead.
async fn poll_at_end_of_handover(batch: Arc<Batch>, attempt: Arc<Attempt>) {
    let mut command = redis::cmd("PTTL");
    command.arg(&attempt.name.lock);
    if let Ok(Value::Int(left)) = batch.command(command).await
        && let Some(left) = u64::try_from(left).ok().map(Duration::from_millis)
        && left <= HANDOVER_TTL
    {
        let end = Instant::now() + left + Duration::from_millis(2);
        if let Some(at) = attempt.handover_ends(end) {
            batch.plan(&attempt, at);
        }
    }
}

/// Reads what is known of the locks of these waiters; `None` of one that is free.
async fn read(batch: &Batch, waiters: &[Waiter]) -> Result<Vec<Option<Seen>>> {
    let mut values = redis::cmd("MGET");
    waiters.iter().for_each(|(attempt, _)| {
        values.arg(&attempt.name.lock);
    });
    let score = |key: &str, attempt: &Attempt| {
        let mut score: Cmd = redis::cmd("ZSCORE");
        score.arg(key).arg(attempt.claim.as_str());
        score
    };
    let first = |attempt: &Attempt| {
        let mut first: Cmd = redis::cmd("ZRANGEBYSCORE");
        first.arg(&attempt.name.queue).arg(FIRST_PLACE).arg("+inf").arg("LIMIT").arg(0).arg(1);
        first
    };
    let prolong = |attempt: &Attempt| {
        let mut prolong: Cmd = redis::cmd("PEXPIRE");
        prolong.arg(&attempt.name.queue);
        prolong.arg(QUEUE_TTL);
        prolong
    };
    let more = waiters.iter().flat_map(|(attempt, look)| {
        let place = look.place.then(|| score(&attempt.name.queue, attempt));
        let share = (attempt.mode == Mode::Shared).then(|| score(&attempt.name.readers, attempt));
        let first = attempt.is_limited.then(|| first(attempt));
        [place, share, first, look.prolong.then(|| prolong(attempt))].into_iter().flatten()
    });
    let commands = [values].into_iter().chain(more);
    let mut answers = join_all(commands.map(|command| batch.command(command))).await.into_iter();
    let Some(Value::Array(values)) = answers.next().transpose()? else {
        return Err(super::error::malformed(batch.server()));
    };
    let mut next = |was_sent: bool| if was_sent { answers.next().transpose() } else { Ok(None) };
    let is_there = |score: Option<Value>| score.map(|score| score != Value::Nil);
    let mut seen = Vec::with_capacity(waiters.len());
    for ((attempt, look), value) in waiters.iter().zip(values) {
        let place = is_there(next(look.place)?);
        let shares = is_there(next(attempt.mode == Mode::Shared)?).unwrap_or(false);
        let first = next(attempt.is_limited)?;
        let leads = first.is_some_and(|first| is_only(&first, attempt.claim.as_str()));
        next(look.prolong)?;
        seen.push(match value {
            Value::BulkString(value) => Some(Seen { value, place, shares, leads }),
            _ => None,
        });
    }
    Ok(seen)
}

/// Whether a list has this element only.
fn is_only(list: &Value, element: &str) -> bool {
    matches!(list, Value::Array(elements) if matches!(&elements[..], [Value::BulkString(only)] if only == element.as_bytes()))
}
