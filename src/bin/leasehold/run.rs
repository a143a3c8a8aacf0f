//! `leasehold run`: a command under a lock.

use std::error::Error;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use leasehold::{LockError, LockGuard, LockManager, Printable};

use super::args::{Run, URL};
use super::child::Child;
use super::exit::{self, Ended, say, say_aside};
use super::signals::{Signals, status};

/// The pause before the command runs again, after the first loss and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

pub(crate) async fn run(manager: &LockManager, args: Run) -> Ended {
    let mut signals = Signals::listen()?;
    let mut pause = PAUSES.0;
    loop {
        let begun = Instant::now();
        let ended = once(manager, &args, &mut signals).await?;
        if ended != exit::LOST || !args.again {
            return Ok(ended);
        }
        if begun.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        tokio::select! {
            biased;
            received = signals.next() => return Ok(status(received.signal.as_raw())),
            () = tokio::time::sleep(pause) => pause = (2 * pause).min(PAUSES.1),
        }
    }
}

/// Runs the command once, under the lock.
async fn once(manager: &LockManager, args: &Run, signals: &mut Signals) -> Ended {
    let guard = tokio::select! {
        biased;
        received = signals.next() => return Ok(status(received.signal.as_raw())),
        acquired = acquire(manager, args) => match acquired {
            Ok(Some(guard)) => guard,
            Ok(None) => {
                say(format_args!("{}: another client holds the lock", Printable(&args.key)));
                return Ok(exit::BUSY);
            }
            // With a source, it was the server that did not answer.
            Err(error @ LockError::Timeout { .. }) if error.source().is_none() => {
                say(error);
                return Ok(exit::TIMEOUT);
            }
            Err(error) => return Err(error.into()),
        },
    };
    let mut child = match start(args, &guard) {
        Ok(child) => child,
        Err(error) => {
            say(format_args!("{}: {error}", args.command[0].display()));
            return Ok(if error.kind() == ErrorKind::NotFound { exit::NOT_FOUND } else { exit::NOT_RUNNABLE });
        }
    };
    let ended = loop {
        tokio::select! {
            biased;
            cause = guard.lost() => {
                let report = say_aside(format!("{}: the lock is lost ({cause}), stopping the command", Printable(&args.key)));
                child.stop(args.grace).await?;
                report.join();
                return Ok(exit::LOST);
            }
            ended = child.wait() => break ended?,
            received = signals.next() => child.forward(received),
        }
    };
    match guard.unlock().await {
        Ok(()) => {}
        Err(error @ LockError::Expired { .. }) => {
            child.stop(args.grace).await?;
            say(error);
            return Ok(exit::LOST);
        }
        // The command has done its work under the lock, which expires after the TTL.
        Err(error) => say(error),
    }
    Ok(code(ended))
}

fn start(args: &Run, guard: &LockGuard) -> std::io::Result<Child> {
    let (program, arguments) = args.command.split_first().ok_or(ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    command.args(arguments);
    command.env("LEASEHOLD_KEY", guard.key()).env("LEASEHOLD_TOKEN", guard.token().to_string());
    // The URL may contain a password.
    command.env_remove(URL);
    Child::start(&mut command)
}

async fn acquire(manager: &LockManager, args: &Run) -> leasehold::Result<Option<LockGuard>> {
    let mut request = manager.lock(&args.key);
    if args.shared {
        request = request.shared();
    }
    if let Some(slots) = args.slots {
        request = request.limit(slots);
    }
    if let Some(value) = &args.value {
        request = request.value(value);
    }
    if let Some(ttl) = args.ttl {
        request = request.ttl(ttl);
    }
    if let Some(timeout) = args.timeout {
        request = request.timeout(timeout);
    }
    if args.attempt { request.try_once().await } else { request.await.map(Some) }
}

fn code(ended: ExitStatus) -> u8 {
    match (ended.code(), ended.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => status(signal),
        (None, None) => exit::FAILED,
    }
}
