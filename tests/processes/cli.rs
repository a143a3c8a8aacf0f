//! The command line, as a process, on real servers. Each test is a function of a server's URL.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures::FutureExt;
use leasehold::{LockGuard, LockManager};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::process::Process;
use support::program;

const LIMIT: Duration = Duration::from_secs(30);

/// Generates tests of these functions: on a shared server, and for those that stop it, on a separate one.
macro_rules! cli_tests {
    ($backend:ident: $server:ty) => {
        cli_tests! {
            $backend: $server;
            the_command_runs_under_the_lock_and_its_status_is_passed_on
            one_waits_for_the_other
            a_busy_lock_is_reported_by_the_status
            a_command_that_cannot_be_run_releases_the_lock
            a_lost_lock_stops_the_command
            a_command_that_does_not_stop_is_killed
            signals_are_passed_on
            a_signal_while_waiting_leaves_nothing
            locks_are_shown
            a_change_of_holder_is_watched
            slots_and_values_are_taken_and_shown
            a_command_runs_again_after_a_loss
            wrong_arguments_differ_from_failures
            a_closed_output_is_no_failure
            force_unlock_revokes_only_the_holder_it_has_shown;
            a_server_that_stops_is_a_loss_in_time
            an_outage_does_not_end_a_watch
            an_outage_while_waiting_differs_from_a_holder
            force_unlock_asks_first
        }
    };
    ($backend:ident: $server:ty; $($shared:ident)*; $($own:ident)*) => {
        mod $backend {
            $(
                #[test]
                fn $shared() {
                    super::$shared(&<$server>::shared().url());
                }
            )*
            $(
                #[test]
                fn $own() {
                    let server = <$server>::start();
                    super::$own(&server.url(), server.process());
                }
            )*
        }
    };
}

cli_tests!(etcd: support::etcd::Etcd);
cli_tests!(redis: support::redis::Redis);

pub(super) fn command(url: &str, arguments: &[&str]) -> Command {
    // Resets signals that this process ignores, as in the background of a script.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(program::command_line());
    command.env("LEASEHOLD_URL", url).args(arguments).stdin(Stdio::null());
    command
}

pub(super) fn output(url: &str, arguments: &[&str]) -> Output {
    command(url, arguments).output().unwrap()
}

pub(super) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(super) fn manager(url: &str) -> LockManager {
    LockManager::connect(url).wait().unwrap()
}

pub(super) fn hold(manager: &LockManager, key: &str) -> LockGuard {
    manager.lock(key).timeout(LIMIT).wait().unwrap()
}

/// A running command, with its output.
pub(super) struct Running {
    pub(super) child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    pub(super) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub(super) fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit status and its output.
    pub(super) fn end(mut self) -> (i32, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code().unwrap(), said)
    }
}

fn the_command_runs_under_the_lock_and_its_status_is_passed_on(url: &str) {
    let script = "echo $LEASEHOLD_KEY $LEASEHOLD_TOKEN; exit 7";
    let output = output(url, &["run", "cli/env", "--", "sh", "-c", script]);
    assert_eq!(code(&output), 7, "{output:?}");
    let printed = text(&output.stdout);
    let (key, token) = printed.trim().split_once(' ').unwrap();
    assert_eq!(key, "cli/env");
    let guard = hold(&manager(url), "cli/env");
    assert!(guard.token().get() > token.parse().unwrap());
}

fn one_waits_for_the_other(url: &str) {
    let mut first = Running::start(command(url, &["run", "cli/two", "--", "sh", "-c", "echo in; read line; exit 0"]));
    // Its standard input is empty, so this ends at once; the order of the tokens is tested.
    assert_eq!(first.line(), "in");
    let second = output(url, &["run", "cli/two", "--", "true"]);
    assert_eq!(code(&second), 0, "{second:?}");
    assert_eq!(first.end().0, 0);
}

fn a_busy_lock_is_reported_by_the_status(url: &str) {
    let manager = manager(url);
    let guard = hold(&manager, "cli/busy");
    let busy = output(url, &["run", "cli/busy", "--try", "--", "echo", "never"]);
    assert_eq!((code(&busy), text(&busy.stdout)), (121, String::new()), "{busy:?}");
    let late = output(url, &["run", "cli/busy", "--timeout", "300ms", "--", "echo", "never"]);
    assert_eq!((code(&late), text(&late.stdout)), (122, String::new()), "{late:?}");
    assert!(text(&late.stderr).contains("cli/busy"), "{late:?}");
    guard.unlock().wait().unwrap();
    let shared = manager.lock("cli/busy").shared().wait().unwrap();
    assert_eq!(code(&output(url, &["run", "cli/busy", "--try", "--shared", "--", "true"])), 0);
    drop(shared);
}

fn a_command_that_cannot_be_run_releases_the_lock(url: &str) {
    assert_eq!(code(&output(url, &["run", "cli/none", "--", "no-such-command-anywhere"])), 127);
    assert_eq!(code(&output(url, &["run", "cli/none", "--", "/etc/passwd"])), 126);
    assert_eq!(code(&output(url, &["who", "cli/none"])), 1);
}

fn a_lost_lock_stops_the_command(url: &str) {
    let script = r#"trap 'echo stopped; exit 0' TERM; echo in; while :; do sleep 0.1; done"#;
    let mut running = Running::start(command(url, &["run", "cli/lost", "--", "sh", "-c", script]));
    assert_eq!(running.line(), "in");
    manager(url).force_unlock("cli/lost").wait().unwrap();
    assert_eq!(running.line(), "stopped");
    let (code, said) = running.end();
    assert_eq!(code, 120, "{said}");
    assert!(said.contains("cli/lost") && said.contains("revoked"), "{said}");
}

fn a_command_that_does_not_stop_is_killed(url: &str) {
    let script = "trap '' TERM; echo in; while :; do sleep 0.1; done";
    let arguments = ["run", "cli/stubborn", "--grace", "300ms", "--", "sh", "-c", script];
    let mut running = Running::start(command(url, &arguments));
    assert_eq!(running.line(), "in");
    manager(url).force_unlock("cli/stubborn").wait().unwrap();
    let (code, said) = running.end();
    assert_eq!(code, 120, "{said}");
    assert!(said.contains("killing"), "{said}");
}

fn a_server_that_stops_is_a_loss_in_time(url: &str, server: &Process) {
    let script = "trap 'echo stopped; exit 0' TERM; echo in; while :; do sleep 0.1; done";
    let arguments = ["run", "cli/stopped", "--ttl", "3s", "--", "sh", "-c", script];
    let mut running = Running::start(command(url, &arguments));
    assert_eq!(running.line(), "in");
    let start = Instant::now();
    server.stop();
    assert_eq!(running.line(), "stopped");
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    let (code, said) = running.end();
    assert_eq!(code, 120, "{said}");
}

fn signals_are_passed_on(url: &str) {
    let script = r#"trap 'exit 42' USR1; echo in; while :; do sleep 0.1; done"#;
    let mut running = Running::start(command(url, &["run", "cli/signal", "--", "sh", "-c", script]));
    assert_eq!(running.line(), "in");
    running.send(Signal::USR1);
    assert_eq!(running.end().0, 42);
    let mut running = Running::start(command(url, &["run", "cli/signal", "--", "sh", "-c", "echo in; sleep 60"]));
    assert_eq!(running.line(), "in");
    running.send(Signal::TERM);
    assert_eq!(running.end().0, 128 + 15);
    assert_eq!(code(&output(url, &["who", "cli/signal"])), 1, "released");
}

fn a_signal_while_waiting_leaves_nothing(url: &str) {
    let manager = manager(url);
    let guard = hold(&manager, "cli/waiting");
    let running = Running::start(command(url, &["run", "cli/waiting", "--", "echo", "never"]));
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

fn locks_are_shown(url: &str) {
    let manager = LockManager::builder().url(url).name("cli-test").build().wait().unwrap();
    let _one = hold(&manager, "cli/show/one");
    let _two = manager.lock("cli/show/two").shared().wait().unwrap();
    let table = text(&output(url, &["ls", "cli/show/"]).stdout);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("KEY") && lines[1].contains("exclusive") && lines[2].contains("shared"), "{table}");
    assert!(lines[1].contains("cli-test"), "{table}");
    let json: Value = serde_json::from_slice(&output(url, &["ls", "cli/show/", "--json"]).stdout).unwrap();
    assert_eq!((&json[0]["key"], &json[1]["mode"]), (&"cli/show/one".into(), &"shared".into()), "{json}");
    assert_eq!(json[0]["holders"][0]["pid"], std::process::id());
    let who: Value = serde_json::from_slice(&output(url, &["who", "cli/show/one", "--json"]).stdout).unwrap();
    assert_eq!(who["holders"][0]["name"], "cli-test");
    let free = output(url, &["who", "cli/show/nobody", "--json"]);
    assert_eq!((code(&free), text(&free.stdout).trim()), (1, "null"));
}

fn a_change_of_holder_is_watched(url: &str) {
    let manager = manager(url);
    let mut watching = Running::start(command(url, &["watch", "cli/watched"]));
    assert!(watching.line().ends_with("free"));
    let guard = hold(&manager, "cli/watched");
    assert!(watching.line().contains("exclusive"));
    guard.unlock().wait().unwrap();
    assert!(watching.line().ends_with("free"));
    watching.child.kill().unwrap();
    watching.child.wait().unwrap();
}

fn slots_and_values_are_taken_and_shown(url: &str) {
    let manager = manager(url);
    let slot = || manager.semaphore("cli/slots", 2).timeout(LIMIT).wait().unwrap();
    let first = slot();
    let run = ["run", "--slots", "2", "--value", "a \u{1b}[2J", "cli/slots", "--", "sh", "-c", "echo in; sleep 1000"];
    let running = {
        let mut running = Running::start(command(url, &run));
        assert_eq!(running.line(), "in");
        running
    };
    let busy = output(url, &["run", "--slots", "2", "--try", "cli/slots", "--", "true"]);
    assert_eq!(code(&busy), 121, "{busy:?}");
    let who = text(&output(url, &["who", "cli/slots"]).stdout);
    assert!(who.contains("2 of 2 slots") && who.contains("a \\u{1b}[2J"), "{who}");
    let json: Value = serde_json::from_slice(&output(url, &["who", "cli/slots", "--json"]).stdout).unwrap();
    assert_eq!((&json["limit"], json["values"].as_array().unwrap().len()), (&2.into(), 2), "{json}");
    running.send(Signal::TERM);
    assert_eq!(running.end().0, 143);
    drop(first);
    drop((slot(), slot()));
}

fn a_command_runs_again_after_a_loss(url: &str) {
    let manager = manager(url);
    let script = "echo $LEASEHOLD_TOKEN; exec sleep 1000";
    let mut running = Running::start(command(url, &["run", "--again", "cli/again", "--", "sh", "-c", script]));
    let mut last = 0;
    for _ in 0..3 {
        let token: u64 = running.line().parse().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
        let evicted = manager.force_unlock("cli/again").wait().unwrap();
        assert_eq!(evicted.holders.len(), 1);
    }
    assert!(running.line().parse::<u64>().unwrap() > last);
    running.send(Signal::TERM);
    assert_eq!(running.end().0, 143);
    // The end of the command ends it.
    let ended = output(url, &["run", "--again", "cli/again", "--", "sh", "-c", "exit 3"]);
    assert_eq!(code(&ended), 3, "{ended:?}");
}

fn force_unlock_asks_first(url: &str, _server: &Process) {
    let manager = manager(url);
    let (guard, other) = (hold(&manager, "forced"), hold(&manager, "other"));
    let answer = |answer: &str, more: &[&str]| {
        let mut command = command(url, &[&["force-unlock", "forced"], more].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let refused = answer("n\n", &[]);
    assert_eq!(code(&refused), 1);
    assert!(text(&refused.stderr).contains("also holds other:"), "{refused:?}");
    assert!(!guard.is_lost());
    let alone = answer("y\n", &["--key-only"]);
    assert_eq!((code(&alone), text(&alone.stdout).contains("forced")), (0, true), "{alone:?}");
    assert_eq!(futures::executor::block_on(guard.lost()), leasehold::Loss::Revoked);
    assert!(!other.is_lost());
    let again = hold(&manager, "forced");
    let all = answer("", &["--yes"]);
    futures::executor::block_on(again.lost());
    // On etcd the holder's other locks are on the same lease. On Redis there are no leases.
    let (released, takes_others) = if url.starts_with("etcd") { ("forced, other", true) } else { ("forced", false) };
    assert!(text(&all.stdout).trim_end().ends_with(&format!(": {released}")), "{all:?}");
    if takes_others {
        futures::executor::block_on(other.lost());
    }
    assert_eq!(other.is_lost(), takes_others);
    assert!(text(&answer("", &["--yes"]).stdout).contains("was free"));
}

/// A `force-unlock` that has shown the holder and waits for an answer.
struct Asked(Child);

impl Asked {
    fn start(url: &str, key: &str, more: &[&str]) -> Self {
        let mut command = command(url, &[&["force-unlock", key], more].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut shown, errors) = (Vec::new(), child.stderr.as_mut().unwrap());
        while !shown.ends_with(b"[y/N] ") {
            let mut byte = [0];
            assert_eq!(errors.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&shown));
            shown.extend(byte);
        }
        Self(child)
    }

    fn answer(mut self, answer: &str) -> Output {
        self.0.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        self.0.wait_with_output().unwrap()
    }
}

fn force_unlock_revokes_only_the_holder_it_has_shown(url: &str) {
    let named = |name: &str| LockManager::builder().url(url).name(name).build().wait().unwrap();
    let (first, second) = (named("first-one"), named("second-one"));
    for more in [&[][..], &["--key-only"]] {
        let (shown, other) = (hold(&first, "cli/shown"), hold(&first, "cli/shown/other"));
        let asked = Asked::start(url, "cli/shown", more);
        shown.unlock().wait().unwrap();
        let next = hold(&second, "cli/shown");
        let answered = asked.answer("y\n");
        assert_eq!((code(&answered), text(&answered.stdout)), (1, String::new()), "{answered:?}");
        let said = text(&answered.stderr);
        assert!(said.contains("second-one") && said.contains("not revoked"), "{said}");
        assert!(next.lost().now_or_never().is_none() && other.lost().now_or_never().is_none());
        next.renew().wait().unwrap();
        other.renew().wait().unwrap();
    }
    let shown = hold(&first, "cli/shown");
    let asked = Asked::start(url, "cli/shown", &["--json"]);
    shown.unlock().wait().unwrap();
    let answered = asked.answer("y\n");
    let eviction: Value = serde_json::from_slice(&answered.stdout).unwrap();
    assert_eq!((code(&answered), &eviction["released"]), (0, &Value::Array(Vec::new())), "{answered:?}");
    let shown = hold(&first, "cli/shown");
    let answered = Asked::start(url, "cli/shown", &["--key-only"]).answer("y\n");
    assert_eq!(code(&answered), 0, "{answered:?}");
    assert!(text(&answered.stdout).contains("revoked from first-one"), "{answered:?}");
    assert_eq!(futures::executor::block_on(shown.lost()), leasehold::Loss::Revoked);
}

fn a_closed_output_is_no_failure(url: &str) {
    let _held = hold(&manager(url), "cli/pipe");
    let nobody = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for (arguments, status) in [
        (&["ls"][..], 0),
        (&["ls", "--json"], 0),
        (&["who", "cli/pipe"], 0),
        (&["who", "cli/pipe/nobody"], 1),
        (&["watch", "cli/pipe"], 0),
        (&["force-unlock", "--yes", "cli/pipe/nobody"], 0),
        (&["completions", "bash"], 0),
        (&["run", "--help"], 0),
    ] {
        let output = command(url, arguments).stdout(nobody()).output().unwrap();
        assert_eq!((code(&output), text(&output.stderr)), (status, String::new()), "{arguments:?}");
    }
    // Nor is a closed standard error.
    for (arguments, status) in [
        (&["run", "cli/pipe", "--try", "--", "true"][..], 121),
        (&["run", "cli/pipe/free", "--", "no-such-command-anywhere"], 127),
        (&["run", "cli/pipe"], 125),
        (&["who", "bad\nkey"], 125),
    ] {
        let output = command(url, arguments).stderr(nobody()).output().unwrap();
        assert_eq!(code(&output), status, "{arguments:?}");
    }
}

fn an_outage_while_waiting_differs_from_a_holder(url: &str, server: &Process) {
    let url = format!("{url}?timeout=500ms");
    let manager = manager(&url);
    let _guard = hold(&manager, "outage");
    let waiting = Running::start(command(&url, &["run", "outage", "--timeout", "4s", "--", "echo", "never"]));
    support::eventually("it waits", || (manager.info("outage").wait().ok().flatten()?.waiters == 1).then_some(()));
    server.stop();
    let (code, said) = waiting.end();
    server.resume();
    assert_eq!(code, 123, "{said}");
}

fn an_outage_does_not_end_a_watch(url: &str, server: &Process) {
    let url = format!("{url}?timeout=500ms");
    let mut watching = Running::start(command(&url, &["watch", "watched"]));
    let mut errors = BufReader::new(watching.child.stderr.take().unwrap());
    let mut said = || {
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        line
    };
    assert!(watching.line().ends_with("free"));
    for mode in ["exclusive", "shared"] {
        server.stop();
        let outage = said();
        assert!(outage.contains("watched") && outage.contains("retrying"), "{outage}");
        // There is time for many more tries.
        std::thread::sleep(Duration::from_millis(1500));
        server.resume();
        let back = said();
        assert!(back.contains("answers again"), "{back}");
        let manager = manager(&url);
        let request = manager.lock("watched").timeout(LIMIT);
        let guard = if mode == "shared" { request.shared() } else { request }.wait().unwrap();
        assert!(watching.line().contains(mode));
        guard.unlock().wait().unwrap();
        assert!(watching.line().ends_with("free"));
    }
    watching.child.kill().unwrap();
    watching.child.wait().unwrap();
}

/// `put` writes foreign claims, by key, name of the holder and ms since 1970. One of the keys contains a terminal sequence.
fn names_are_escaped_where_they_are_shown(url: &str, put: impl Fn(&str, &str, u64)) {
    let hostile = "\u{1b}[2J\n\u{202e}";
    let long = "n".repeat(1000);
    put("cli/odd/\u{1b}[2J", "key", 0);
    put("cli/odd/name", hostile, 1_700_000_000_000);
    put("cli/odd/long", &long, 1_700_000_000_000);
    put("cli/odd/late", "late", u64::MAX);
    let is_plain = |char: char| char == '\n' || !char.is_control() && char != '\u{202e}';
    let shown = |output: &Output| {
        let printed = text(&output.stdout) + &text(&output.stderr);
        assert!(printed.chars().all(is_plain), "{printed:?}");
        assert!(printed.lines().all(|line| line.chars().count() < 800), "{printed}");
        printed
    };
    let listed = output(url, &["ls", "cli/odd/"]);
    let table = shown(&listed);
    assert_eq!((code(&listed), table.lines().count()), (0, 5), "{table}");
    assert!(table.contains(r"cli/odd/\u{1b}[2J") && table.contains(r"\u{1b}[2J\u{a}\u{202e} (pid 7"), "{table}");
    // On Redis, it is the server that dates a hold.
    assert!(url.starts_with("redis") || table.contains("1970-01-01T00:00:00Z"), "{table}");
    assert!(!table.contains(&long), "{table}");
    let json = text(&output(url, &["ls", "cli/odd/", "--json"]).stdout);
    assert!(json.chars().all(is_plain), "{json:?}");
    let json: Value = serde_json::from_str(&json).unwrap();
    let names: Vec<_> =
        json.as_array().unwrap().iter().map(|lock| lock["holders"][0]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["key", "late", &long, hostile]);
    for (arguments, status) in [
        (&["who", "cli/odd/name"][..], 0),
        (&["who", "cli/odd/late"], 0),
        (&["run", "cli/odd/name", "--timeout", "1s", "--", "true"], 122),
        (&["run", "cli/odd/long", "--timeout", "1s", "--", "true"], 122),
        (&["force-unlock", "cli/odd/name"], 1),
        (&["force-unlock", "--yes", "cli/odd/name"], 0),
    ] {
        let output = output(url, arguments);
        let printed = shown(&output);
        assert_eq!(code(&output), status, "{arguments:?}: {printed}");
        assert!(!arguments.contains(&"cli/odd/name") || printed.contains(r"\u{1b}[2J\u{a}\u{202e}"), "{printed}");
    }
    let mut watching = Running::start(command(url, &["watch", "cli/odd/long"]));
    assert!(watching.line().chars().count() < 400);
    watching.child.kill().unwrap();
    watching.child.wait().unwrap();
}

#[test]
fn names_on_etcd_are_escaped_where_they_are_shown() {
    let server = support::etcd::Etcd::shared();
    names_are_escaped_where_they_are_shown(&server.url(), |key, name, asked_at| {
        let segment = key.replace('/', "%2F").replace('\u{1b}', "%1B");
        let claim = serde_json::json!({
            "v": 1, "name": name, "host": "h", "pid": 7, "manager": "m", "mode": "exclusive", "asked_at": asked_at
        });
        server.etcdctl(&["put", &format!("leasehold/{segment}/1-2"), &claim.to_string()]);
    });
}

#[test]
fn names_on_redis_are_escaped_where_they_are_shown() {
    let server = support::redis::Redis::shared();
    names_are_escaped_where_they_are_shown(&server.url(), |key, name, asked_at| {
        let token = format!("0000000000000005:0000000000000abc:x2:1700000000000000:30000:{asked_at}:7:h:{name}::");
        server.cli(&["SET", &format!("lock:{key}"), &token]);
    });
}

fn wrong_arguments_differ_from_failures(url: &str) {
    for arguments in [
        &["list"][..],
        &["run", "cli/usage"],
        &["run", "--", "true"],
        &["run", "cli/usage", "--try", "--timeout", "1s", "--", "true"],
        &["run", "cli/usage", "--try", "--again", "--", "true"],
        &["run", "cli/usage", "--shared", "--slots", "2", "--", "true"],
        &["run", "cli/usage", "--ttl", "soon", "--", "true"],
        &["run", "cli/usage", "--ttl", "1ms", "--", "true"],
        &["run", "cli/usage", "--ttl", "25h", "--", "true"],
        &["run", "cli/usage", "--at-least", "-1s", "--", "true"],
        &["run", "cli/usage", "--slots", "0", "--", "true"],
        &["run", "cli/usage", "--slots", "4294967296", "--", "true"],
        &["run", "cli/usage", "--value", &"v".repeat(1025), "--", "true"],
        &["run", "bad\nkey", "--", "true"],
        &["run", "", "--", "true"],
        &["who", "bad\nkey"],
        &["watch", "bad\nkey"],
        &["force-unlock", "bad\nkey"],
        &["force-unlock", "--yes", "bad\nkey"],
        &["--url", "", "ls"],
        &["--url", "nothing://here", "ls"],
        &["--url", &format!("{url}?ttl=soon"), "ls"],
        &["--url", &format!("{url}?prefx=jobs/"), "run", "cli/usage", "--", "true"],
        &["completions", "cmd.exe"],
    ] {
        let output = output(url, arguments);
        assert_eq!(code(&output), 125, "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    assert_eq!(code(&output(url, &["run", "--help"])), 0);
    assert_eq!(code(&output("redis://127.0.0.1:1?timeout=300ms", &["ls"])), 123);
    assert_eq!(code(&output(url, &["man", "/dev/null/pages"])), 123);
}

#[test]
fn errors_contain_no_secrets() {
    let nobody = ["etcd", "redis"].map(|scheme| format!("{scheme}://joe:hush-hush@127.0.0.1:1?timeout=300ms"));
    for url in nobody.iter().map(String::as_str).chain(["nothing://here"]) {
        let output = output(url, &["ls"]);
        assert_eq!(code(&output), if url.contains("127.0.0.1") { 123 } else { 125 }, "{output:?}");
        assert!(!output.stderr.is_empty() && !text(&output.stderr).contains("hush-hush"), "{output:?}");
    }
    let verbose = output(&nobody[0], &["-v", "ls"]);
    assert!(text(&verbose.stderr).contains("etcd://127.0.0.1:1") && !text(&verbose.stderr).contains("hush-hush"));
}

#[test]
fn without_a_server_the_locks_are_in_a_directory_of_the_account() {
    let mut command = command("", &["who", "-v", &format!("nobody-{:016x}", rand::random::<u64>())]);
    // Not that of the environment, in which a cron job and a shell differ.
    let free = command.env_remove("LEASEHOLD_URL").env("HOME", "/nowhere").output().unwrap();
    assert_eq!(code(&free), 1, "{free:?}");
    let said = text(&free.stderr);
    let directories = ["file:///run/leasehold\n", "/.local/state/leasehold\n"];
    assert!(directories.iter().any(|end| said.contains(end)) && !said.contains("nowhere"), "{said}");
}

#[test]
fn help_and_completions_name_the_commands() {
    let help = text(&output("", &["run", "--help"]).stdout);
    for word in ["120", "121", "122", "123", "125", "126", "127", "LEASEHOLD_TOKEN", "--grace", "leasehold run --try"] {
        assert!(help.contains(word), "{word} in {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&output("", &["completions", shell]).stdout).contains("force-unlock"), "{shell}");
    }
}

#[test]
fn man_pages_describe_the_commands() {
    let folder = support::folder::Folder::new();
    let directory = folder.path().join("share/man/man1");
    let written = output("", &["man", directory.to_str().unwrap()]);
    assert_eq!((code(&written), text(&written.stdout), text(&written.stderr)), (0, String::new(), String::new()));
    let mut names: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let commands = ["-completions", "-doctor", "-force-unlock", "-ls", "-man", "-run", "-watch", "-who", ""];
    assert_eq!(names, commands.map(|command| format!("leasehold{command}.1")));
    for name in names {
        let page = std::fs::read_to_string(directory.join(&name)).unwrap();
        for part in [".TH leasehold", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", "url"] {
            assert!(page.contains(part), "{part} in {name:?}: {page}");
        }
    }
    let run = std::fs::read_to_string(directory.join("leasehold-run.1")).unwrap();
    for part in [".SH \"EXIT STATUS\"\n.nf", "\n120  the lock was lost", ".SH EXAMPLES\n.nf", "at\\-least"] {
        assert!(run.contains(part), "{part} in {run}");
    }
    // Lines that are kept fit on a narrow terminal.
    let kept = run.split("\n.nf\n").skip(1).filter_map(|part| part.split("\n.fi\n").next()).flat_map(str::lines);
    assert!(kept.map(|line| line.replace('\\', "").chars().count()).max() < Some(74), "{run}");
}
