//! A job in the crontab of many machines, which one of them runs each night: `cargo run --example cron_job [URL]`.
//!
//! The lock alone is not enough: it only prevents two machines from running the job at the same time. If the job takes ten seconds
//! and the clock of one machine is a minute late, that machine finds the lock free again. A long TTL does not help, because the lock
//! is released when the job is done. Therefore the results also contain a record of what was done, and a machine that has acquired
//! the lock checks that record first.
//!
//! For a job that is a command, there is `leasehold run --try nightly-report -- ./report.sh`.

use std::error::Error;
use std::time::Duration;

use leasehold::{FenceGate, LockError, LockManager};
use tokio::time::sleep;

/// Stands for a table of a database: the nights that have a report. Like the database, it refuses outdated tokens.
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
        // Three machines with different clocks. The third is so late that the first has finished by then.
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

/// The cron job of one machine, whose clock is `late`.
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
    // Not needed at the end of a program: dropping the last manager waits for the release.
    manager.close().await?;
    Ok(outcome)
}

async fn nightly_report(manager: &LockManager, night: &'static str) -> Result<Outcome, Box<dyn Error + Send + Sync>> {
    // If the lock is busy, another machine is running the job, and there is nothing to wait for.
    let Some(guard) = manager.try_lock("nightly-report").await? else { return Ok(Outcome::Busy) };
    // The record names the night, on which clocks agree that differ by minutes.
    if REPORTS.enter(guard.token(), |done| done.contains(&night))? {
        return Ok(Outcome::DoneBefore);
    }
    // The lock is renewed as long as this runs. If it is lost, the work is dropped: another machine may be running the job by now.
    guard.run(sleep(Duration::from_millis(100))).await?;
    // Report and record are written together, unless a later holder has written already.
    REPORTS.enter(guard.token(), |done| done.push(night))?;
    match guard.unlock().await {
        // If the lock was lost just now, the record was still written in time.
        Ok(()) | Err(LockError::Expired { .. }) => Ok(Outcome::Done),
        Err(error) => Err(error.into()),
    }
}
