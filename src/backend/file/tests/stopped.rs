//! Processes that are stopped at a step of the protocol: the others go on, and what it does once it is resumed does no harm.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Signal, getpid, kill_process};

use super::*;
use crate::support::process::Process;
use crate::token::FencingToken;

/// Short, for a waiter goes on when the lease of a stopped process has ended.
const TTL: Duration = Duration::from_secs(1);

/// All steps, and whether the process that is stopped there had a claim that counts. One that has unlocked its byte has none.
const STEPS: [(Gate, bool); 6] = [
    (Gate::Placed, true),
    (Gate::Looked, true),
    (Gate::Dated, true),
    (Gate::Renewed, true),
    (Gate::Renamed, true),
    (Gate::Unlocked, false),
];

const DIRECTORY: &str = "LEASEHOLD_DIRECTORY";
const STEP: &str = "LEASEHOLD_STEP";

/// In a child: stops itself at a step. Reports whether its last call succeeded.
#[tokio::test]
#[ignore = "a child of another test"]
async fn stops_itself() {
    let (Ok(directory), Ok(step)) = (std::env::var(DIRECTORY), std::env::var(STEP)) else { return };
    let (gate, _) = STEPS[step.parse::<usize>().unwrap()];
    let manager = Manager::start_at(Path::new(&directory), TTL, Arc::new(AwakeClock)).await;
    let held = match gate {
        Gate::Renewed | Gate::Unlocked => manager.try_lock(Mode::Exclusive).await,
        Gate::Placed | Gate::Looked | Gate::Dated | Gate::Renamed | Gate::Listed => None,
    };
    let _stepping = once_at(gate, || {
        kill_process(getpid(), Signal::STOP).unwrap();
        // Another thread may get the signal, and this one would run on for a moment.
        std::thread::sleep(Duration::from_millis(200));
    });
    let is_good = match (gate, &held) {
        (Gate::Renewed, Some(_)) => manager.renew().is_ok(),
        (Gate::Unlocked, Some(held)) => manager.backend.release(held).await.is_ok(),
        _ => manager.backend.acquire(&manager.claim(Mode::Exclusive), Wait::UntilGranted).await.is_ok(),
    };
    println!("@@{}", if is_good { "succeeded" } else { "failed" });
}

/// Stops a process at a step, and has another manager lock the key. Returns what the stopped one says once it is resumed.
async fn stop_at(step: usize) -> String {
    let scratch = Scratch::new();
    let directory = scratch.path().join("d");
    let other = Manager::start_at(&directory, super::TTL, Arc::new(AwakeClock)).await;
    // A lease that expires, for the step at which that is noticed.
    let expired = Manager::start_at(&directory, TTL, Arc::new(AwakeClock)).await;
    let first = if STEPS[step].0 == Gate::Renamed { expired.try_lock(Mode::Exclusive).await } else { None };
    let process = Process::spawn(std::env::current_exe().unwrap(), |command| {
        let name = "backend::file::tests::stopped::stops_itself";
        command.args([name, "--exact", "--ignored", "--nocapture"]).stdout(Stdio::piped());
        command.env(DIRECTORY, &directory).env(STEP, step.to_string());
    });
    let stopped = tokio::task::spawn_blocking(move || {
        process.wait_until_stopped();
        process
    });
    let mut process = stopped.await.unwrap();
    let started = Instant::now();
    let grant = timeout(3 * SOON, other.lock(Mode::Exclusive)).await.expect("nobody is blocked").unwrap().unwrap();
    println!("{:?}: granted after {:?}", STEPS[step].0, started.elapsed());
    assert!(first.is_none_or(|first| first.epoch < grant.epoch));
    process.resume();
    let mut output = process.inner().stdout.take().unwrap();
    let said = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();
        said
    });
    let said = timeout(3 * SOON, said).await.unwrap_or_else(|_| panic!("{:?}: no outcome", STEPS[step].0)).unwrap();
    // What the resumed one has done has not ended this hold.
    assert!(
        expired
            .backend
            .inspect("k")
            .await
            .unwrap()
            .is_some_and(|info| info.token == Some(FencingToken::of_epoch(grant.epoch)))
    );
    said.split("@@").nth(1).and_then(|said| said.lines().next()).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_process_that_is_stopped_at_any_step_blocks_nobody_and_gets_nothing_later() {
    let outcomes = futures::future::join_all((0..STEPS.len()).map(stop_at)).await;
    for ((gate, counts), said) in STEPS.iter().zip(outcomes) {
        assert_eq!(said, if *counts { "failed" } else { "succeeded" }, "{gate:?}");
    }
}
