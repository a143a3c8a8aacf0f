//! `leasehold run`: a command under a lock.

use std::error::Error;
use std::fmt::Display;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use humantime::format_duration;
use leasehold::{LockError, LockGuard, LockManager, Printable};

use super::args::{Run, URL};
use super::child::Child;
use super::exit::{self, Ended, say, say_aside, unrunnable};
use super::signals::{Signals, status};
use super::{launcher, url, waiting};

/// The pause before the command runs again, after the first loss and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A command that is to run under a lock.
struct Job<'a> {
    manager: &'a LockManager,
    args: Run,
    /// The URL of the locks, if one was given.
    url: Option<&'a str>,
    verbose: bool,
}

/// Runs the command of `args`. `url` is the one that was given, if any.
pub(crate) async fn run(manager: &LockManager, args: Run, url: Option<&str>, verbose: bool) -> Ended {
    let job = Job { manager, args, url, verbose };
    let mut signals = Signals::listen()?;
    let mut pause = PAUSES.0;
    loop {
        let begun = Instant::now();
        if let Some(code) = job.once(&mut signals).await? {
            return Ok(code);
        }
        if !job.args.again {
            return Ok(exit::LOST);
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

impl Job<'_> {
    /// Runs the command once, under the lock. Returns no exit status if the lock was lost.
    async fn once(&self, signals: &mut Signals) -> Result<Option<u8>, Box<dyn Error>> {
        let (args, begun) = (&self.args, Instant::now());
        let guard = tokio::select! {
            biased;
            received = signals.next() => return Ok(Some(status(received.signal.as_raw()))),
            acquired = acquire(self.manager, args) => match acquired {
                Ok(Some(guard)) => guard,
                Ok(None) => {
                    say(format_args!("{}: another client holds the lock", Printable(&args.key)));
                    return Ok(Some(exit::BUSY));
                }
                // With a source, it was the server that did not answer.
                Err(error @ LockError::Timeout { .. }) if error.source().is_none() => {
                    say(error);
                    return Ok(Some(exit::TIMEOUT));
                }
                Err(error) => return Err(error.into()),
            },
            never = waiting::report(self.manager, &args.key), if !args.quiet && !args.attempt => match never {},
        };
        let acquired = Instant::now();
        self.report(format_args!("acquired after {}, token {}", time(acquired - begun), guard.token()));
        let mut child = match self.start(&guard) {
            Ok(child) => child,
            Err(error) => return Ok(Some(unrunnable(&args.command[0], &error))),
        };
        let mut may_linger = true;
        let ended = loop {
            tokio::select! {
                biased;
                cause = guard.lost() => {
                    let report = say_aside(format!("{}: the lock is lost ({cause}), stopping the command", Printable(&args.key)));
                    child.stop(args.grace).await?;
                    report.join();
                    return Ok(None);
                }
                ended = child.wait() => break code(ended?),
                received = signals.next() => {
                    may_linger &= !received.asks_to_end();
                    child.forward(received);
                }
            }
        };
        if may_linger && !self.linger(&guard, acquired, signals).await {
            return Ok(Some(ended));
        }
        match guard.unlock().await {
            Ok(()) => self.report("released"),
            Err(error @ LockError::Expired { .. }) => {
                child.stop(args.grace).await?;
                say(error);
                return Ok(None);
            }
            // The command has done its work under the lock, which expires after the TTL.
            Err(error) => say(error),
        }
        Ok(Some(ended))
    }

    fn start(&self, guard: &LockGuard) -> std::io::Result<Child> {
        let (program, arguments) = self.args.command.split_first().ok_or(ErrorKind::NotFound)?;
        let mut command = launcher::command(program);
        command.args(arguments);
        command.env("LEASEHOLD_KEY", guard.key()).env("LEASEHOLD_TOKEN", guard.token().to_string());
        if let Some(url) = self.url {
            // Without the variable, a `leasehold` that the command runs would find its locks elsewhere, in a directory.
            let is_passed = self.args.keep_env || !url::has_credentials(url);
            command.env(URL, if is_passed { url } else { "" });
        }
        Child::start(&mut command)
    }

    /// Holds the lock until `--at-least` has passed since it was acquired, or a signal asks to end. Returns false if it is lost by then.
    async fn linger(&self, guard: &LockGuard, acquired: Instant, signals: &mut Signals) -> bool {
        let rest = self.args.at_least.unwrap_or_default().saturating_sub(acquired.elapsed());
        if rest.is_zero() {
            return true;
        }
        self.report(format_args!("the command has ended, the lock is held for another {}", time(rest)));
        tokio::select! {
            biased;
            cause = guard.lost() => {
                say(format_args!("{}: the lock is lost ({cause}), after the command has ended", Printable(&self.args.key)));
                false
            }
            () = signals.end() => true,
            () = tokio::time::sleep(rest) => true,
        }
    }

    /// Prints what happens to the lock, with `--verbose`.
    fn report(&self, what: impl Display) {
        if self.verbose {
            say(format_args!("{}: {what}", Printable(&self.args.key)));
        }
    }
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

/// A duration as it is shown, in whole milliseconds.
fn time(duration: Duration) -> impl Display {
    format_duration(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}

fn code(ended: ExitStatus) -> u8 {
    match (ended.code(), ended.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => status(signal),
        (None, None) => exit::FAILED,
    }
}
