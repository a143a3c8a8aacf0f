//! The command line, as a process, on a real etcd.
#![cfg(all(feature = "cli", feature = "etcd"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::etcd::Etcd;

const LIMIT: Duration = Duration::from_secs(30);

/// A command on the server that all tests share.
fn command(arguments: &[&str]) -> Command {
    command_at(&Etcd::shared().url(), arguments)
}

fn command_at(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    command.env("LEASEHOLD_URL", url).args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn manager() -> LockManager {
    LockManager::connect(Etcd::shared().url()).wait().unwrap()
}

fn hold(manager: &LockManager, key: &str) -> LockGuard {
    manager.lock(key).timeout(LIMIT).wait().unwrap()
}

/// A command that runs, with what it prints.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit status and what it had to say.
    fn end(mut self) -> (i32, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code().unwrap(), said)
    }
}

#[test]
fn the_command_runs_under_the_lock_and_its_status_is_passed_on() {
    let script = "echo $LEASEHOLD_KEY $LEASEHOLD_TOKEN; exit 7";
    let output = output(&["run", "cli/env", "--", "sh", "-c", script]);
    assert_eq!(code(&output), 7, "{output:?}");
    let printed = text(&output.stdout);
    let (key, token) = printed.trim().split_once(' ').unwrap();
    assert_eq!(key, "cli/env");
    let guard = hold(&manager(), "cli/env");
    assert!(guard.token().get() > token.parse().unwrap());
}

#[test]
fn one_waits_for_the_other() {
    let mut first = Running::start(command(&["run", "cli/two", "--", "sh", "-c", "echo in; read line; exit 0"]));
    // Its standard input is empty, so this ends at once; the point is the order of the tokens.
    assert_eq!(first.line(), "in");
    let second = output(&["run", "cli/two", "--", "true"]);
    assert_eq!(code(&second), 0, "{second:?}");
    assert_eq!(first.end().0, 0);
}

#[test]
fn who_is_late_is_told_so_by_the_status() {
    let manager = manager();
    let guard = hold(&manager, "cli/busy");
    let busy = output(&["run", "cli/busy", "--try", "--", "echo", "never"]);
    assert_eq!((code(&busy), text(&busy.stdout)), (121, String::new()), "{busy:?}");
    let late = output(&["run", "cli/busy", "--timeout", "300ms", "--", "echo", "never"]);
    assert_eq!((code(&late), text(&late.stdout)), (122, String::new()), "{late:?}");
    assert!(text(&late.stderr).contains("cli/busy"), "{late:?}");
    guard.unlock().wait().unwrap();
    let shared = manager.lock("cli/busy").shared().wait().unwrap();
    assert_eq!(code(&output(&["run", "cli/busy", "--try", "--shared", "--", "true"])), 0);
    drop(shared);
}

#[test]
fn what_cannot_be_run_releases_the_lock() {
    assert_eq!(code(&output(&["run", "cli/none", "--", "no-such-command-anywhere"])), 127);
    assert_eq!(code(&output(&["run", "cli/none", "--", "/etc/passwd"])), 126);
    assert_eq!(code(&output(&["who", "cli/none"])), 1);
}

#[test]
fn a_lost_lock_stops_the_command() {
    let script = r#"trap 'echo stopped; exit 0' TERM; echo in; while :; do sleep 0.1; done"#;
    let mut running = Running::start(command(&["run", "cli/lost", "--", "sh", "-c", script]));
    assert_eq!(running.line(), "in");
    manager().force_unlock("cli/lost").wait().unwrap();
    assert_eq!(running.line(), "stopped");
    let (code, said) = running.end();
    assert_eq!(code, 120, "{said}");
    assert!(said.contains("cli/lost") && said.contains("revoked"), "{said}");
}

#[test]
fn a_command_that_will_not_stop_is_killed() {
    let script = "trap '' TERM; echo in; while :; do sleep 0.1; done";
    let arguments = ["run", "cli/stubborn", "--grace", "300ms", "--", "sh", "-c", script];
    let mut running = Running::start(command(&arguments));
    assert_eq!(running.line(), "in");
    manager().force_unlock("cli/stubborn").wait().unwrap();
    let (code, said) = running.end();
    assert_eq!(code, 120, "{said}");
    assert!(said.contains("killing"), "{said}");
}

#[test]
fn a_server_that_stops_is_a_loss_in_time() {
    let etcd = Etcd::start();
    let script = "trap 'echo stopped; exit 0' TERM; echo in; while :; do sleep 0.1; done";
    let arguments = ["run", "cli/stopped", "--ttl", "3s", "--", "sh", "-c", script];
    let mut running = Running::start(command_at(&etcd.url(), &arguments));
    assert_eq!(running.line(), "in");
    let start = Instant::now();
    etcd.process().stop();
    assert_eq!(running.line(), "stopped");
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    let (code, said) = running.end();
    assert_eq!(code, 120, "{said}");
}

#[test]
fn signals_are_passed_on() {
    let script = r#"trap 'exit 42' USR1; echo in; while :; do sleep 0.1; done"#;
    let mut running = Running::start(command(&["run", "cli/signal", "--", "sh", "-c", script]));
    assert_eq!(running.line(), "in");
    running.send(Signal::USR1);
    assert_eq!(running.end().0, 42);
    let mut running = Running::start(command(&["run", "cli/signal", "--", "sh", "-c", "echo in; sleep 60"]));
    assert_eq!(running.line(), "in");
    running.send(Signal::TERM);
    assert_eq!(running.end().0, 128 + 15);
    assert_eq!(code(&output(&["who", "cli/signal"])), 1, "released");
}

#[test]
fn a_signal_while_waiting_leaves_nothing() {
    let manager = manager();
    let guard = hold(&manager, "cli/waiting");
    let running = Running::start(command(&["run", "cli/waiting", "--", "echo", "never"]));
    let waiters = || manager.info("cli/waiting").wait().unwrap().unwrap().waiters;
    let start = Instant::now();
    while waiters() == 0 {
        assert!(start.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(20));
    }
    running.send(Signal::TERM);
    assert_eq!(running.end().0, 128 + 15);
    assert_eq!(waiters(), 0);
    drop(guard);
}

#[test]
fn locks_are_shown() {
    let manager = LockManager::builder().url(Etcd::shared().url()).name("cli-test").build().wait().unwrap();
    let _one = hold(&manager, "cli/show/one");
    let _two = manager.lock("cli/show/two").shared().wait().unwrap();
    let table = text(&output(&["ls", "cli/show/"]).stdout);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("KEY") && lines[1].contains("exclusive") && lines[2].contains("shared"), "{table}");
    assert!(lines[1].contains("cli-test"), "{table}");
    let json: Value = serde_json::from_slice(&output(&["ls", "cli/show/", "--json"]).stdout).unwrap();
    assert_eq!((&json[0]["key"], &json[1]["mode"]), (&"cli/show/one".into(), &"shared".into()), "{json}");
    assert_eq!(json[0]["holders"][0]["pid"], std::process::id());
    let who: Value = serde_json::from_slice(&output(&["who", "cli/show/one", "--json"]).stdout).unwrap();
    assert_eq!(who["holders"][0]["name"], "cli-test");
    let free = output(&["who", "cli/show/nobody", "--json"]);
    assert_eq!((code(&free), text(&free.stdout).trim()), (1, "null"));
}

#[test]
fn a_change_of_holder_is_watched() {
    let manager = manager();
    let mut watching = Running::start(command(&["watch", "cli/watched", "--interval", "50ms"]));
    assert!(watching.line().ends_with("free"));
    let guard = hold(&manager, "cli/watched");
    assert!(watching.line().contains("exclusive"));
    guard.unlock().wait().unwrap();
    assert!(watching.line().ends_with("free"));
    watching.child.kill().unwrap();
    watching.child.wait().unwrap();
}

#[test]
fn force_unlock_asks_first() {
    // A server of its own: a revoked lease takes along all that its manager holds.
    let etcd = Etcd::start();
    let manager = LockManager::connect(etcd.url()).wait().unwrap();
    let (guard, other) = (hold(&manager, "forced"), hold(&manager, "other"));
    let answer = |answer: &str, more: &[&str]| {
        let mut command = command_at(&etcd.url(), &[&["force-unlock", "forced"], more].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let refused = answer("n\n", &[]);
    assert_eq!(code(&refused), 1);
    assert!(text(&refused.stderr).contains("holds other as well"), "{refused:?}");
    assert!(!guard.is_lost());
    let alone = answer("y\n", &["--key-only"]);
    assert_eq!((code(&alone), text(&alone.stdout).contains("forced")), (0, true), "{alone:?}");
    assert!(futures::executor::block_on(guard.lost()) == leasehold::Loss::Revoked);
    assert!(!other.is_lost());
    let _again = hold(&manager, "forced");
    let all = answer("", &["--yes"]);
    assert!(text(&all.stdout).contains("forced, other"), "{all:?}");
    futures::executor::block_on(other.lost());
    assert!(text(&answer("", &["--yes"]).stdout).contains("was free"));
}

#[test]
fn what_goes_wrong_is_said_without_secrets() {
    for url in ["nothing://here", "etcd://joe:hush-hush@127.0.0.1:1?timeout=300ms"] {
        let output = command_at(url, &["ls"]).output().unwrap();
        assert_eq!(code(&output), 123, "{output:?}");
        assert!(!output.stderr.is_empty() && !text(&output.stderr).contains("hush-hush"), "{output:?}");
    }
    let mut missing = command(&["ls"]);
    let missing = missing.env_remove("LEASEHOLD_URL").output().unwrap();
    assert_eq!(code(&missing), 123);
    assert!(text(&missing.stderr).contains("LEASEHOLD_URL"), "{missing:?}");
    assert_eq!(code(&output(&["run", "cli/usage"])), 2, "no command");
    assert_eq!(code(&output(&["run", "bad\nkey", "--", "true"])), 123);
}

#[test]
fn help_and_completions_teach() {
    let help = text(&output(&["run", "--help"]).stdout);
    for word in ["120", "121", "122", "LEASEHOLD_TOKEN", "--grace", "leasehold run --try"] {
        assert!(help.contains(word), "{word} in {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&output(&["completions", shell]).stdout).contains("force-unlock"), "{shell}");
    }
}
