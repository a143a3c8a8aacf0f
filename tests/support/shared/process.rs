//! Processes that do not outlive their test.

use std::ffi::OsStr;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use rustix::process::{Pid, Signal, kill_process};

/// A process that is killed when this is dropped, and also when the test itself is killed.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a program.
    ///
    /// # Panics
    ///
    /// If the program does not exist.
    pub fn spawn(program: impl AsRef<OsStr>, configure: impl FnOnce(&mut Command)) -> Self {
        // setpriv is a part of util-linux, so it exists on any Linux; it becomes the program, under the same process id.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program.as_ref());
        configure(&mut command);
        match spawn_from_lasting_thread(command) {
            Ok(child) => Self(child),
            Err(error) => panic!("cannot start {:?}: {error}", program.as_ref()),
        }
    }

    pub fn inner(&mut self) -> &mut Child {
        &mut self.0
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it with SIGSTOP until [`resume`](Self::resume).
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        self.wait_until_stopped();
    }

    /// Waits until it is stopped, for example by a signal that it sends itself.
    pub fn wait_until_stopped(&self) {
        // The signal stops each thread at its own time.
        super::eventually("all threads are stopped", || self.is_stopped().then_some(()));
    }

    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        threads.map_while(Result::ok).all(|thread| {
            // The state comes after the name, which is in parentheses and may have some itself.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        })
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Returns its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

type Order = (Command, Sender<io::Result<Child>>);

/// The kernel sends the signal when the *thread* that started the process ends, and a test's thread ends with its test, while a
/// server may be shared by many.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static THREAD: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = THREAD.get_or_init(|| {
        let (orders, received) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in received {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, answered) = channel();
    orders.send((command, answer)).unwrap();
    answered.recv().unwrap()
}
