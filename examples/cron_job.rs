//! A job that is in the crontab of many machines, and that one of them runs each night: `cargo run --example cron_job [URL]`.
//!
//! The lock alone is not enough. It keeps two machines from running the job at the same time, and no more: if the job takes ten
//! seconds and the clock of one machine is a minute late, that one finds the lock free again and runs the job once more. A TTL
//! that is longer than any clock is wrong would not do either: the lock goes when the job is done, and must, or a night in which
//! a machine dies would be a night without a report. So there is a record of what was done, where the results are kept, and
//! whoever gets the lock looks there first.
//!
//! For a job that is a command, there is `leasehold run --try nightly-report -- ./report.sh`.

use std::error::Error;
use std::time::Duration;

use leasehold::{FenceGate, LockError, LockManager};
use tokio::time::sleep;

/// Stands for the table of a database: the nights that have a report. Like the database, it refuses who comes too late.
static REPORTS: FenceGate<Vec<&str>> = FenceGate::new(Vec::new());

#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    DoneBefore,
    Busy,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://cron_job".into());
    for night in ["Monday", "Tuesday"] {
        // Three machines, each with a clock of its own. The third is so late that the first has finished by then.
        let late = [0, 20, 400].map(Duration::from_millis);
        let machines: Vec<_> = late
            .into_iter()
            .enumerate()
            .map(|(number, late)| tokio::spawn(machine(url.clone(), format!("machine-{number}"), late, night)))
            .collect();
        let mut reports = 0;
        for machine in machines {
            reports += usize::from(machine.await?? == Outcome::Done);
        }
        assert_eq!(reports, 1, "one report of {night}");
    }
    Ok(())
}

/// What a machine does when its clock says that it is time.
async fn machine(
    url: String,
    name: String,
    late: Duration,
    night: &'static str,
) -> Result<Outcome, Box<dyn Error + Send + Sync>> {
    let manager = LockManager::builder().url(url).name(&name).build().await?;
    sleep(late).await;
    let outcome = nightly_report(&manager, night).await?;
    println!("{name}, {night}: {outcome:?}");
    // A program that ends here need not do this: the drop of its last manager waits for the release.
    manager.close().await?;
    Ok(outcome)
}

async fn nightly_report(manager: &LockManager, night: &'static str) -> Result<Outcome, Box<dyn Error + Send + Sync>> {
    // Who finds it busy is done: somebody else is at it, and there is nothing to wait for.
    let Some(guard) = manager.try_lock("nightly-report").await? else { return Ok(Outcome::Busy) };
    // The record names the night, not the hour: clocks that differ by some minutes agree on it.
    if REPORTS.enter(guard.token(), |done| done.contains(&night))? {
        return Ok(Outcome::DoneBefore);
    }
    // The lock is renewed for as long as this takes. If it is lost, the report is given up: another machine may be at it by now.
    guard.run(sleep(Duration::from_millis(100))).await?;
    // Report and record go together, and only while nobody else has come after us.
    REPORTS.enter(guard.token(), |done| done.push(night))?;
    match guard.unlock().await {
        // The lock was lost just now, but what was written was written in time.
        Ok(()) | Err(LockError::Expired { .. }) => Ok(Outcome::Done),
        Err(error) => Err(error.into()),
    }
}
