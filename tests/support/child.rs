//! Child processes that talk with their test by lines.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::PATIENCE;
use super::process::Process;

/// What the lines of a child that are meant for its parent begin with: the test harness prints lines of its own, and one
/// without an end right before the first.
const MARK: &str = "@@";
const ROLE: &str = "LEASEHOLD_CHILD";
const SEPARATE: &str = "LEASEHOLD_SEPARATE";

/// A process that does its part of a test.
#[derive(Debug)]
pub struct Child {
    pub process: Process,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Child {
    /// Runs a function of this program, named with its modules, in a separate process.
    ///
    /// It is a test that is ignored, and that begins with `let Some(arguments) = child::role() else { return };`.
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

    /// Returns the rest of the next line that has `text` in it.
    pub fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            if let Some((_, rest)) = line.split_once(text) {
                return rest.to_owned();
            }
        }
    }

    /// Returns what the child says next with [`say`].
    pub fn said(&mut self) -> String {
        self.line_with(MARK)
    }

    /// Waits until the child says this.
    pub fn expect(&mut self, word: &str) {
        let said = self.said();
        assert_eq!(said, word);
    }

    /// Sends the child a line, for [`hear`].
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits until it has ended by itself, and says whether well.
    pub fn finish(mut self) -> bool {
        drop(self.input.take());
        super::eventually("the child ends", || self.process.ended()).success()
    }
}

/// Makes a command that runs this program run a function of it, as for [`Child::of_this_test`].
pub fn play(command: &mut Command, function: &str, arguments: &[&str]) {
    command.args([function, "--exact", "--ignored", "--nocapture", "--test-threads=1"]).env(ROLE, arguments.join("\n"));
}

/// In a child: its arguments. `None` if this is no child.
pub fn role() -> Option<Vec<String>> {
    std::env::var(ROLE).ok().map(|arguments| arguments.split('\n').map(Into::into).collect())
}

/// In a child: says a line to its parent.
pub fn say(line: &str) {
    println!("{MARK}{line}");
}

/// In a child: waits for a line of its parent. `None` once the parent has no more.
pub fn hear() -> Option<String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).unwrap();
    (read > 0).then(|| line.trim_end().to_owned())
}

/// Runs the rest of the test that calls it in a separate process: for what is one for a whole process, such as the logger, the keeper
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

/// What [`in_a_separate_process`](crate::in_a_separate_process) asks: in the parent, runs the test, and returns true.
///
/// # Panics
///
/// If the test fails, with what it prints.
pub fn has_run_separately(here: &str) -> bool {
    // The program, the modules, the test, and what is inside of it.
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
