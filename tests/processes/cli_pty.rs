//! `leasehold run` on a real terminal and without one: signals, job control, and remaining processes.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use leasehold::LockManager;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, OutputModes, tcgetattr, tcsetattr};
use support::process::Process;
use support::program;
use support::redis::Redis;
use support::{PATIENCE, eventually};

const CTRL_C: &[u8] = b"\x03";
const CTRL_Z: &[u8] = b"\x1a";
/// A shell command that never ends.
const FOREVER: &str = "while :; do sleep 0.1; done";

/// A bash script in a separate session.
struct Session {
    shell: Process,
    keyboard: Option<File>,
    screen: Receiver<String>,
    seen: String,
}

impl Session {
    /// Starts a script on a controlling terminal.
    fn with_terminal(script: &str) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let path = ptsname(&terminal, Vec::new()).unwrap();
        let user = OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(path.as_bytes())).unwrap();
        // The terminal echoes no input, and does not change the output.
        let mut modes = tcgetattr(&user).unwrap();
        modes.local_modes -= LocalModes::ECHO;
        modes.output_modes -= OutputModes::OPOST;
        tcsetattr(&user, OptionalActions::Now, &modes).unwrap();
        let shell = shell(&["--ctty", "bash", "--norc", "-c", script], |command| {
            command.stdin(user.try_clone().unwrap()).stdout(user.try_clone().unwrap()).stderr(user);
        });
        let keyboard = File::from(terminal);
        Self { shell, screen: read(keyboard.try_clone().unwrap()), keyboard: Some(keyboard), seen: String::new() }
    }

    /// Starts a script without a controlling terminal.
    fn without_terminal(script: &str) -> Self {
        let (output, input) = std::io::pipe().unwrap();
        let script = format!("(: </dev/tty) 2>/dev/null || echo no terminal; {script}");
        let shell = shell(&["bash", "--norc", "-c", &script], |command| {
            command.stdin(Stdio::null()).stdout(input.try_clone().unwrap()).stderr(input);
        });
        let mut session = Self { shell, screen: read(output), keyboard: None, seen: String::new() };
        session.expect("no terminal");
        session
    }

    /// Waits for a line with this text, and returns the rest of the line.
    fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.seen.split_once(text).and_then(|(_, rest)| rest.split_once('\n'));
            if let Some((line, rest)) = found {
                let line = line.to_owned();
                self.seen = rest.to_owned();
                return line;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.screen.recv_timeout(left).unwrap_or_else(|_| panic!("no {text:?}, only {:?}", self.seen));
            self.seen.push_str(&more);
        }
    }

    fn expect_process(&mut self, text: &str) -> Pid {
        Pid::from_raw(self.expect(text).trim().parse().unwrap()).unwrap()
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.keyboard.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// Waits until the script has printed the exit status of `leasehold`, and has ended.
    fn ended(mut self) -> i32 {
        let status = self.expect("ended-").trim().parse().unwrap();
        eventually("the script ends", || self.shell.ended());
        status
    }
}

fn shell(arguments: &[&str], configure: impl FnOnce(&mut Command)) -> Process {
    // Resets signals that this process ignores, under nohup for example.
    Process::spawn("env", |command| {
        command.args(["--default-signal", "setsid"]).args(arguments).env("LEASEHOLD_URL", Redis::shared().url());
        command.env("leasehold", program::command_line());
        configure(command);
    })
}

fn read(mut output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, screen) = channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        while let Ok(count) = output.read(&mut bytes) {
            if count == 0 || sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                break;
            }
        }
    });
    screen
}

/// The state of a process as in /proc, unless it no longer exists.
fn state(process: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn lives(process: Pid) -> bool {
    state(process).is_some_and(|state| state != 'Z')
}

fn manager() -> LockManager {
    LockManager::connect(Redis::shared().url()).wait().unwrap()
}

fn is_free(key: &str) -> bool {
    manager().try_lock(key).wait().unwrap().is_some()
}

#[test]
fn a_command_reads_the_terminal() {
    for input in ["", "echo piped | "] {
        let mut session = Session::with_terminal(&format!(
            r#"{input}"$leasehold" run pty/read -- sh -c 'echo ready; read -r line </dev/tty; echo got-$line'; echo ended-$?"#
        ));
        session.expect("ready");
        session.type_in(b"hello\n");
        session.expect("got-hello");
        assert_eq!(session.ended(), 0);
    }
}

#[test]
fn a_typed_interrupt_reaches_the_command_once() {
    for input in ["", "echo piped | "] {
        let command = r#"n=0; trap 'n=$((n+1)); echo caught' INT; echo ready; while [ $n = 0 ]; do sleep 0.1; done;
            read -r line </dev/tty; echo times-$n"#;
        let script = format!(
            r#"trap : INT; export command; {input}"$leasehold" run pty/interrupt -- sh -c "$command"; echo ended-$?"#
        );
        let mut session = Session::with_terminal(&format!("command={}; {script}", quoted(command)));
        session.expect("ready");
        session.type_in(CTRL_C);
        session.expect("caught");
        session.type_in(b"\n");
        assert_eq!(session.expect("times-"), "1");
        assert_eq!(session.ended(), 0);
    }
    // Not sh, which waits for the command if it is interrupted right before the start.
    let mut session = Session::with_terminal(
        r#"trap : INT; echo piped | "$leasehold" run pty/interrupt -- bash -c 'echo ready; exec sleep 1000'; echo ended-$?"#,
    );
    session.expect("ready");
    session.type_in(CTRL_C);
    assert_eq!(session.ended(), 128 + 2);
    assert!(is_free("pty/interrupt"));
}

#[test]
fn a_signal_that_is_sent_reaches_the_command() {
    for start in [Session::with_terminal, Session::without_terminal] {
        let command = format!("trap 'echo caught; exit 3' INT; echo ready-$PPID; {FOREVER}");
        let mut session = start(&format!(r#""$leasehold" run pty/sent -- sh -c {}; echo ended-$?"#, quoted(&command)));
        kill_process(session.expect_process("ready-"), Signal::INT).unwrap();
        session.expect("caught");
        assert_eq!(session.ended(), 3);
    }
}

#[test]
fn a_signal_ends_a_stopped_command_and_its_descendants() {
    for start in [Session::with_terminal, Session::without_terminal] {
        for signal in [Signal::TERM, Signal::HUP, Signal::QUIT, Signal::INT] {
            let command = "sleep 1000 & echo started-$!; echo tool-$PPID; echo command-$$; kill -STOP $$; echo never";
            let mut session = start(&format!(
                r#"ulimit -c 0; "$leasehold" run pty/stopped -- sh -c {}; echo ended-$?"#,
                quoted(command)
            ));
            let started = session.expect_process("started-");
            let tool = session.expect_process("tool-");
            let command = session.expect_process("command-");
            eventually("the command is stopped", || (state(command) == Some('T')).then_some(()));
            kill_process(tool, signal).unwrap();
            assert_eq!(session.ended(), 128 + signal.as_raw());
            // Background processes of a shell without job control ignore these two.
            if signal == Signal::INT || signal == Signal::QUIT {
                // The end of a session with a terminal may have ended it already.
                let _ = kill_process(started, Signal::KILL);
            }
            eventually("the descendants of the command end", || (!lives(started)).then_some(()));
            assert!(is_free("pty/stopped"));
        }
    }
}

#[test]
fn a_job_is_stopped_and_continued() {
    let mut session = Session::with_terminal(
        r#"set -m; "$leasehold" run pty/job -- sh -c 'echo ready; read -r line; echo got-$line'; echo stopped-$?
        fg >/dev/null; echo ended-$?"#,
    );
    session.expect("ready");
    session.type_in(CTRL_Z);
    assert_eq!(session.expect("stopped-"), "148");
    session.type_in(b"again\n");
    session.expect("got-again");
    assert_eq!(session.ended(), 0);
}

#[test]
fn a_background_job_reads_the_terminal_once_it_is_in_the_foreground() {
    let mut session = Session::with_terminal(
        r#"set -m; "$leasehold" run pty/background -- sh -c 'read -r line </dev/tty; echo got-$line' &
        until jobs -s | grep -q .; do sleep 0.1; done; echo stopped; fg >/dev/null; echo ended-$?"#,
    );
    session.expect("stopped");
    session.type_in(b"hello\n");
    session.expect("got-hello");
    assert_eq!(session.ended(), 0);
}

#[test]
fn a_background_job_is_terminated() {
    let mut session = Session::with_terminal(
        r#"set -m; "$leasehold" run pty/terminated -- sh -c 'echo ready-$PPID; exec sleep 1000' &
        wait $! 2>/dev/null; echo ended-$?"#,
    );
    kill_process(session.expect_process("ready-"), Signal::TERM).unwrap();
    assert_eq!(session.ended(), 128 + 15);
    assert!(is_free("pty/terminated"));
}

#[test]
fn an_interrupt_that_was_ignored_at_the_start_stays_ignored() {
    let command = format!("trap 'exit 42' USR1; kill -INT $$; kill -QUIT $$; echo ready-$PPID; {FOREVER}");
    let mut session = Session::with_terminal(&format!(
        r#"trap 'echo typed' INT; "$leasehold" run pty/ignored -- sh -c {} & wait $!; wait $!; echo ended-$?"#,
        quoted(&command)
    ));
    let tool = session.expect_process("ready-");
    session.type_in(CTRL_C);
    session.expect("typed");
    kill_process(tool, Signal::QUIT).unwrap();
    kill_process(tool, Signal::USR1).unwrap();
    assert_eq!(session.ended(), 42);
}

#[test]
fn a_hangup_is_ignored_under_nohup() {
    let command = format!("trap 'exit 42' USR1; kill -HUP $$; echo ready-$PPID; {FOREVER}");
    // nohup does not redirect output in a pipe.
    for start in [Session::with_terminal, Session::without_terminal] {
        let mut session = start(&format!(
            r#"set -o pipefail; nohup "$leasehold" run pty/nohup -- sh -c {} 2>&1 | cat; echo ended-$?"#,
            quoted(&command)
        ));
        let tool = session.expect_process("ready-");
        kill_process(tool, Signal::HUP).unwrap();
        kill_process(tool, Signal::USR1).unwrap();
        assert_eq!(session.ended(), 42);
    }
}

#[test]
fn a_loss_ends_all_processes_of_the_command() {
    for start in [Session::with_terminal, Session::without_terminal] {
        let stubborn = |name: &str| format!("trap '' TERM; echo {name}-$$; {FOREVER}");
        let far = format!("setsid sh -c {} & sleep 1000", quoted(&stubborn("far")));
        // The parent of the second one ends at once.
        let command = format!(
            "sh -c {near} & (sh -c {far} & exit); echo direct-$$; exec sleep 1000",
            near = quoted(&stubborn("near")),
            far = quoted(&far)
        );
        let mut session = start(&format!(
            r#""$leasehold" run pty/loss --grace 300ms -- sh -c {} </dev/null; echo ended-$?"#,
            quoted(&command)
        ));
        let mut processes = Vec::new();
        // In any order.
        while processes.len() < 3 {
            let line = session.expect("-");
            processes.push(Pid::from_raw(line.trim().parse().unwrap()).unwrap());
        }
        manager().force_unlock("pty/loss").wait().unwrap();
        session.expect("killing");
        assert_eq!(session.ended(), 120);
        assert_eq!(processes.into_iter().filter(|process| lives(*process)).count(), 0);
    }
}

#[test]
fn a_loss_does_not_wait_for_the_reader_of_standard_error() {
    // Standard error is a pipe that is full, until the command no longer runs.
    let script = format!(
        r#"mkfifo "$folder/errors"; exec 3<>"$folder/errors"; head -c 65536 /dev/zero >&3
        "$leasehold" run pty/full --grace 300ms -- sh -c {} 2>&3 & echo started; wait $!; echo ended-$?"#,
        quoted(&format!("trap '' TERM; echo ready-$$; {FOREVER}"))
    );
    let folder = support::folder::Folder::new();
    let mut session = Session::without_terminal(&format!("folder={}; {script}", folder.path().display()));
    let command = session.expect_process("ready-");
    manager().force_unlock("pty/full").wait().unwrap();
    eventually("the command is killed", || (!lives(command)).then_some(()));
    let mut reader = File::open(folder.path().join("errors")).unwrap();
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    assert_eq!(session.ended(), 120);
}

#[test]
fn the_end_of_the_command_releases_the_lock_and_leaves_its_background_processes_alone() {
    for start in [Session::with_terminal, Session::without_terminal] {
        let mut session = start(
            r#""$leasehold" run pty/left -- sh -c 'setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo left-$!'; echo ended-$?"#,
        );
        let left = session.expect_process("left-");
        assert_eq!(session.ended(), 0);
        assert!(lives(left));
        assert!(is_free("pty/left"));
        kill_process(left, Signal::KILL).unwrap();
    }
}

#[test]
fn earlier_children_do_not_count_as_the_commands() {
    let mut session = Session::without_terminal(
        r#"(sleep 1000 & echo other-$!; exec "$leasehold" run pty/exec --grace 300ms -- sh -c 'echo ready; exec sleep 1000')
        echo ended-$?"#,
    );
    let other = session.expect_process("other-");
    session.expect("ready");
    manager().force_unlock("pty/exec").wait().unwrap();
    assert_eq!(session.ended(), 120);
    assert!(lives(other));
    kill_process(other, Signal::KILL).unwrap();
}

#[test]
fn the_command_dies_with_the_tool() {
    for start in [Session::with_terminal, Session::without_terminal] {
        let mut session = start(
            r#""$leasehold" run pty/dies --ttl 2s -- sh -c 'echo tool-$PPID; echo command-$$; exec sleep 1000'; echo ended-$?"#,
        );
        let tool = session.expect_process("tool-");
        let command = session.expect_process("command-");
        kill_process(tool, Signal::KILL).unwrap();
        assert_eq!(session.ended(), 128 + 9);
        eventually("the command is killed", || (!lives(command)).then_some(()));
    }
}

#[test]
fn the_command_ignores_and_blocks_the_same_signals_as_without_the_tool() {
    for start in [Session::with_terminal, Session::without_terminal] {
        for before in ["", "trap '' USR1; "] {
            let signals = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
            let mut session =
                start(&format!(r#"{before}{signals}; "$leasehold" run pty/mask -- {signals}; echo ended-$?"#));
            let fields = ["SigBlk:", "SigIgn:"];
            assert_eq!(fields.map(|field| session.expect(field)), fields.map(|field| session.expect(field)));
            assert_eq!(session.ended(), 0);
        }
    }
}

/// A text quoted for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
