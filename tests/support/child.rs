//! Child processes that exchange lines with their test.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::process::Process;

/// The prefix of a child's lines for its parent: the test harness also prints lines, and one
/// without a line break right before the first.
const MARK: &str = "@@";
const ROLE: &str = "LEASEHOLD_CHILD";
const SEPARATE: &str = "LEASEHOLD_SEPARATE";

/// A process that runs a part of a test.
#[derive(Debug)]
pub struct Child {
    pub process: Process,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Child {
    /// Runs a function of this program, named with its modules, in a separate process.
    ///
    /// The function is an ignored test that begins with `let Some(arguments) = child::role() else { return };`.
    pub fn of_this_test(function: &str, arguments: &[&str]) -> Self {
        Self::start(std::env::current_exe().unwrap(), |command| play(command, function, arguments))
    }

    pub fn start(program: PathBuf, configure: impl FnOnce(&mut Command)) -> Self {
        let mut process = Process::spawn(program, |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            configure(command);
        });
        let (output, input) = (process.inner().stdout.take().unwrap(), process.inner().stdin.take());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { process, input, lines }
    }

    /// Returns the next line of output.
    ///
    /// # Panics
    ///
    /// If there is none within [`PATIENCE`].
    pub fn line(&mut self) -> String {
        self.line_within(PATIENCE).unwrap_or_else(|| panic!("no line within {PATIENCE:?}"))
    }

    /// Returns the next line, or `None` if there is none within `limit`.
    ///
    /// # Panics
    ///
    /// If the child's output ends.
    pub fn line_within(&mut self, limit: Duration) -> Option<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the child ended: {:?}", self.process.inner().wait()),
        }
    }

    /// Returns the rest of the next line that contains `text`.
    pub fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            if let Some((_, rest)) = line.split_once(text) {
                return rest.to_owned();
            }
        }
    }

    /// Returns the next line that the child sends with [`say`].
    pub fn said(&mut self) -> String {
        self.line_with(MARK)
    }

    /// Returns the next line that the child sends with [`say`], or `None` if there is none within `limit`.
    pub fn said_within(&mut self, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.line_within(deadline.saturating_duration_since(Instant::now()))?;
            if let Some((_, said)) = line.split_once(MARK) {
                return Some(said.to_owned());
            }
        }
    }

    /// Waits until the child sends this line.
    pub fn expect(&mut self, word: &str) {
        let said = self.said();
        assert_eq!(said, word);
    }

    /// Sends the child a line, for [`hear`].
    pub fn send(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits until it has ended. Returns whether it succeeded.
    pub fn finish(mut self) -> bool {
        drop(self.input.take());
        super::eventually("the child ends", || self.process.ended()).success()
    }
}

/// The command that runs a function of this program, as for [`Child::of_this_test`].
pub fn play(command: &mut Command, function: &str, arguments: &[&str]) {
    command.args([function, "--exact", "--ignored", "--nocapture", "--test-threads=1"]).env(ROLE, arguments.join("\n"));
}

/// In a child: its arguments. `None` if this is no child.
pub fn role() -> Option<Vec<String>> {
    std::env::var(ROLE).ok().map(|arguments| arguments.split('\n').map(Into::into).collect())
}

/// In a child: sends a line to its parent.
pub fn say(line: &str) {
    println!("{MARK}{line}");
}

/// In a child: waits for a line of its parent. `None` once the parent sends no more.
pub fn hear() -> Option<String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).unwrap();
    (read > 0).then(|| line.trim_end().to_owned())
}

/// Runs the rest of the calling test in a separate process: for tests of what exists once in a process, such as the logger, the keeper
/// or memory. The test is a function without arguments, and this is its first statement.
#[macro_export]
macro_rules! in_a_separate_process {
    () => {
        fn here() {}
        if $crate::child::has_run_separately(std::any::type_name_of_val(&here)) {
            return;
        }
    };
}

/// Used by [`in_a_separate_process`](crate::in_a_separate_process): in the parent, runs the test, and returns true.
///
/// # Panics
///
/// If the test fails, with what it prints.
pub fn has_run_separately(here: &str) -> bool {
    // The program, the modules, the test, and the name inside of it.
    let test = here.trim_end_matches("::here").trim_end_matches("::{{closure}}").split_once("::").unwrap().1;
    if std::env::var(SEPARATE).is_ok_and(|separate| separate == test) {
        return false;
    }
    let mut process = Process::spawn(std::env::current_exe().unwrap(), |command| {
        command.args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]).env(SEPARATE, test);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    });
    let (output, errors) = (process.inner().stdout.take().unwrap(), process.inner().stderr.take().unwrap());
    let errors = std::thread::spawn(move || std::io::read_to_string(errors));
    let output = std::io::read_to_string(output).unwrap();
    let (errors, status) = (errors.join().unwrap().unwrap(), process.inner().wait().unwrap());
    println!("{output}{errors}");
    assert!(status.success() && output.contains("test result: ok. 1 passed"), "{test} in a separate process: {status}");
    true
}
