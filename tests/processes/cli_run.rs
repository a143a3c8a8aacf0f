//! `leasehold run` on a directory and on real servers: what dies with it, what it reports, and for how long it holds the lock.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use leasehold::LockManager;
use rustix::process::Signal;
use support::folder::Folder;
use support::redis::Redis;
use support::{eventually, program};

use super::cli::{Running, code, command, hold, manager, output, text};

/// Generates tests of these functions, each on a new directory and on shared servers.
macro_rules! run_tests {
    ($($test:ident)*) => {
        mod file {
            $(
                #[test]
                fn $test() {
                    let folder = support::folder::Folder::new();
                    super::$test(&super::in_folder(&folder));
                }
            )*
        }
        mod etcd {
            $(
                #[test]
                fn $test() {
                    super::$test(&support::etcd::Etcd::shared().url());
                }
            )*
        }
        mod redis {
            $(
                #[test]
                fn $test() {
                    super::$test(&support::redis::Redis::shared().url());
                }
            )*
        }
    };
}

run_tests! {
    the_command_dies_with_the_tool
    a_tool_that_is_killed_at_any_moment_leaves_no_command
    a_short_command_holds_the_lock_for_a_while
    a_signal_ends_the_hold_after_the_command
    a_signal_to_the_command_leaves_no_hold_after_it
    a_loss_ends_the_hold_after_the_command
    the_holders_are_named_while_it_waits
    it_is_silent_unless_it_waits
    what_it_does_is_printed_on_demand
    a_tool_in_the_command_finds_the_locks
}

fn in_folder(folder: &Folder) -> String {
    format!("file://{}/locks", folder.path().display())
}

fn run(url: &str, options: &[&str], key: &str, script: &str) -> Running {
    Running::start(command(url, &[&["run"], options, &[key, "--", "sh", "-c", script]].concat()))
}

fn errors(running: &mut Running) -> impl FnMut() -> String + use<> {
    let mut errors = BufReader::<ChildStderr>::new(running.child.stderr.take().unwrap());
    move || {
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

fn status(mut running: Running) -> i32 {
    running.child.wait().unwrap().code().unwrap()
}

fn is_held(url: &str, key: &str) -> bool {
    match code(&output(url, &["run", "--try", key, "--", "true"])) {
        0 => false,
        121 => true,
        other => panic!("status {other}"),
    }
}

fn lives(process: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

fn the_command_dies_with_the_tool(url: &str) {
    // The second one is stopped.
    for script in ["echo $$; exec sleep 1000", "trap '' TERM INT HUP; echo $$; kill -STOP $$"] {
        let mut running = run(url, &["--ttl", "2s"], "run/dies", script);
        let process = running.line();
        assert!(lives(&process), "{process}");
        // It would also be killed at the end of any other thread that had started it.
        let tool = running.child.id();
        let children = std::fs::read_to_string(format!("/proc/{tool}/task/{tool}/children")).unwrap();
        assert!(children.split_whitespace().any(|child| child == process), "{process} is not in {children}");
        running.send(Signal::KILL);
        running.child.wait().unwrap();
        eventually("the command is killed", || (!lives(&process)).then_some(()));
        hold(&manager(url), "run/dies").unlock().wait().unwrap();
    }
}

fn a_tool_that_is_killed_at_any_moment_leaves_no_command(url: &str) {
    // No other process has this argument.
    let seconds = format!("1000.{:016}", rand::random::<u64>());
    let found = || {
        let processes = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
        let lines = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
        lines.filter(|line| line.contains(&seconds)).collect::<Vec<_>>()
    };
    let mut has_run = false;
    for round in 0..200 {
        let key = format!("run/moment/{round}");
        let mut running = Running::start(command(url, &["run", "--ttl", "2s", &key, "--", "sleep", &seconds]));
        std::thread::sleep(Duration::from_millis(8 * round));
        has_run |= found().iter().any(|line| line.starts_with("sleep"));
        running.send(Signal::KILL);
        running.child.wait().unwrap();
        eventually("the command is killed", || found().is_empty().then_some(()));
        if has_run && round > 20 {
            return;
        }
    }
    panic!("the command has not run");
}

fn a_short_command_holds_the_lock_for_a_while(url: &str) {
    let started = Instant::now();
    let running = run(url, &["--at-least", "1.5s"], "run/least", "exit 3");
    assert_eq!(running.end(), (3, String::new()));
    assert!(started.elapsed() >= Duration::from_millis(1500), "{:?}", started.elapsed());
    // Not longer than the command, if that takes longer.
    let running = run(url, &["--at-least", "10ms", "-v"], "run/least", "sleep 0.1; exit 4");
    let (code, said) = running.end();
    assert!(code == 4 && said.contains("released") && !said.contains("another"), "{code}: {said}");
    // Nor if there is no command.
    let missing = output(url, &["run", "--at-least", "10ms", "run/least", "--", "no-such-command-anywhere"]);
    assert_eq!(self::code(&missing), 127);
}

/// A tool that holds the lock for an hour after its command, which has exited with 3.
fn lingering(url: &str, key: &str) -> (Running, impl FnMut() -> String + use<>) {
    let mut running = run(url, &["-v", "--at-least", "1h"], key, "exit 3");
    let mut said = errors(&mut running);
    let line = std::iter::from_fn(|| Some(said())).find(|line| line.contains("ended") || line.is_empty()).unwrap();
    assert!(line.contains("the command has ended, the lock is held for another 59m"), "{line}");
    assert!(is_held(url, key));
    (running, said)
}

fn a_signal_ends_the_hold_after_the_command(url: &str) {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let (running, mut said) = lingering(url, "run/signal");
        // It asks for something that depends on the command.
        running.send(Signal::USR1);
        assert!(is_held(url, "run/signal"));
        running.send(signal);
        assert_eq!(said(), "leasehold: run/signal: released");
        assert_eq!(status(running), 3);
        assert!(!is_held(url, "run/signal"));
    }
}

fn a_signal_to_the_command_leaves_no_hold_after_it(url: &str) {
    let script = "trap 'exit 4' TERM; echo in; while :; do sleep 0.1; done";
    let mut running = run(url, &["--at-least", "1h"], "run/ended", script);
    assert_eq!(running.line(), "in");
    running.send(Signal::TERM);
    assert_eq!(running.end().0, 4);
}

fn a_loss_ends_the_hold_after_the_command(url: &str) {
    let (running, mut said) = lingering(url, "run/lost");
    manager(url).force_unlock("run/lost").wait().unwrap();
    let line = said();
    assert!(line.contains("run/lost: the lock is lost (revoked") && line.contains("after the command"), "{line}");
    assert_eq!(status(running), 3);
}

fn the_holders_are_named_while_it_waits(url: &str) {
    let named = |name: &str| LockManager::builder().url(url).name(name).build().wait().unwrap();
    let (first, second) = (named("first-one"), named("second-one"));
    let waiters = || first.info("run/named").wait().unwrap().map_or(0, |info| info.waiters);
    let held = hold(&first, "run/named");
    let next = std::thread::spawn(move || hold(&second, "run/named"));
    eventually("the second one waits", || (waiters() == 1).then_some(()));
    let mut running = run(url, &[], "run/named", "exit 5");
    let mut said = errors(&mut running);
    let line = said();
    let me = std::process::id();
    assert!(line.starts_with(&format!("leasehold: run/named: held by first-one (pid {me} on ")), "{line}");
    assert!(line.contains(") since 2"), "{line}");
    assert!(line.ends_with(", 2 waiting"), "{line}");
    held.unlock().wait().unwrap();
    let next = next.join().unwrap();
    let line = said();
    assert!(line.starts_with(&format!("leasehold: run/named: held by second-one (pid {me} on ")), "{line}");
    assert!(line.ends_with(", 1 waiting"), "{line}");
    next.unlock().wait().unwrap();
    assert_eq!((said(), status(running)), (String::new(), 5));
}

fn it_is_silent_unless_it_waits(url: &str) {
    assert_eq!(run(url, &[], "run/silent", "exit 0").end(), (0, String::new()));
    let manager = manager(url);
    let _held = manager.lock("run/silent").shared().wait().unwrap();
    let (code, said) = run(url, &["--try"], "run/silent", "exit 0").end();
    assert!(code == 121 && said.lines().count() == 1 && !said.contains("held by"), "{said}");
    let (code, said) = run(url, &["--quiet", "--timeout", "1s"], "run/silent", "exit 0").end();
    assert!(code == 122 && said.lines().count() == 1, "{said}");
    let (code, said) = run(url, &["--timeout", "3s"], "run/silent", "exit 0").end();
    assert!(code == 122 && said.lines().count() == 2 && said.contains("(shared), 1 waiting"), "{said}");
}

fn what_it_does_is_printed_on_demand(url: &str) {
    let (code, said) = run(url, &["--verbose"], "run/verbose", "echo $LEASEHOLD_TOKEN >&2").end();
    let lines: Vec<_> = said.lines().collect();
    let [locks, acquired, token, released] = lines[..] else { panic!("{said}") };
    assert!(code == 0 && locks.starts_with("leasehold: the locks are at "), "{said}");
    assert!(acquired.starts_with("leasehold: run/verbose: acquired after "), "{said}");
    assert!(acquired.ends_with(&format!(", token {token}")), "{said}");
    assert_eq!(released, "leasehold: run/verbose: released");
}

fn a_tool_in_the_command_finds_the_locks(url: &str) {
    let tool = program::command_line().to_str().unwrap();
    let nested = ["run", "run/nested", "--", tool, "who", "run/nested"];
    let by_option = [&["--url", url][..], &nested].concat();
    let mut elsewhere = command("redis://:hush-hush@nowhere", &by_option);
    for output in [output(url, &nested), output("", &by_option), elsewhere.output().unwrap()] {
        assert_eq!(code(&output), 0, "{output:?}");
        assert!(text(&output.stdout).contains("run/nested"), "{output:?}");
    }
    let printed = output(url, &["run", "run/nested", "--", "printenv", "LEASEHOLD_URL"]);
    assert_eq!(text(&printed.stdout).trim(), url);
}

#[test]
fn a_password_is_not_in_the_environment_of_the_command() {
    let server = Redis::start();
    server.cli(&["ACL", "SETUSER", "joe", "on", ">hush-hush", "~*", "&*", "+@all"]);
    let url = server.url().replace("redis://", "redis://joe:hush-hush@");
    let tool = program::command_line().to_str().unwrap();
    for (variable, arguments) in [(&*url, &["run", "run/secret"][..]), ("", &["--url", &url, "run", "run/secret"])] {
        let printed = output(variable, &[arguments, &["--", "env"]].concat());
        let environment = text(&printed.stdout);
        assert_eq!(code(&printed), 0, "{printed:?}");
        assert!(environment.lines().any(|line| line == "LEASEHOLD_URL="), "{environment}");
        assert!(!environment.contains("hush-hush"), "{environment}");
        let kept = output(variable, &[arguments, &["--keep-env", "--", "printenv", "LEASEHOLD_URL"]].concat());
        assert_eq!((code(&kept), text(&kept.stdout).trim()), (0, &*url));
        // Without the URL it does not look for its locks elsewhere.
        let nested = output(variable, &[arguments, &["--", tool, "who", "run/secret"]].concat());
        assert!(code(&nested) == 125 && text(&nested.stderr).contains("--keep-env"), "{nested:?}");
    }
}

#[test]
fn what_is_not_supported_is_wrong_usage() {
    let folder = Folder::new();
    for options in [&["--slots", "2"][..], &["--value", "text"], &["--url", "file:///proc/sys"]] {
        let output = output(&in_folder(&folder), &[&["run", "k"], options, &["--", "echo", "never"]].concat());
        assert_eq!((code(&output), text(&output.stdout)), (125, String::new()), "{output:?}");
        assert!(text(&output.stderr).starts_with("leasehold: unsupported: "), "{output:?}");
    }
}

#[test]
fn a_script_without_a_first_line_is_run_by_the_shell() {
    let folder = Folder::new();
    let script = folder.path().join("script");
    std::fs::write(&script, "exit 6\n").unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&script).status().unwrap().success());
    let ended = output(&in_folder(&folder), &["run", "script", "--", script.to_str().unwrap()]);
    assert_eq!(code(&ended), 6, "{ended:?}");
}

#[test]
fn a_program_that_was_replaced_while_it_ran_runs_its_command() {
    let folder = Folder::new();
    let (url, tool) = (in_folder(&folder), folder.path().join("tool"));
    std::fs::copy(program::command_line(), &tool).unwrap();
    let held = hold(&manager(&url), "replaced");
    let mut command = Command::new(&tool);
    command.env("LEASEHOLD_URL", &url).args(["run", "replaced", "--", "echo", "done"]).stdin(Stdio::null());
    let mut running = Running::start(command);
    let mut said = errors(&mut running);
    assert!(said().contains("held by"));
    std::fs::remove_file(&tool).unwrap();
    held.unlock().wait().unwrap();
    assert_eq!((running.line(), status(running)), ("done".to_owned(), 0));
}

#[test]
fn a_launcher_without_its_parent_does_not_run_the_command() {
    // Its parent is this process, not the first one.
    let mut launcher = Command::new(program::command_line());
    let output = launcher.args(["--become-the-command-of", "1", "echo", "never"]).output().unwrap();
    assert_eq!((code(&output), text(&output.stdout)), (126, String::new()), "{output:?}");
}
