//! Clients of other libraries: each is a process with one lock, and executes commands, one a line.
//!
//! | command | answer | |
//! | --- | --- | --- |
//! | | `ready` | once, at the start |
//! | `try` | `yes`, `no` | tries to acquire the lock |
//! | `lock` | `locked` | waits for it |
//! | `unlock` | `unlocked` | releases it; exits with an error if it is not held |
//! | `crowd HISTORY NAME SECONDS` | the number of holds | acquires and releases it repeatedly, and records the holds under a name |

use std::path::Path;
use std::time::Duration;

use support::child::Child;

/// The TTL of their locks; the same as in client.py.
pub const TTL: Duration = Duration::from_secs(30);

/// The polling interval of clients that poll.
pub const RETRY: Duration = Duration::from_millis(20);

/// The duration of a hold in a crowd.
pub const HOLD: Duration = Duration::from_millis(1);

/// The longest pause between two holds: clients without messages need a free lock to find.
pub const PAUSE: Duration = Duration::from_millis(20);

/// The other clients' libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RedisPy,
    PythonRedisLock,
    Rslock,
    AsyncRedisLock,
    /// redis-py's client of clusters.
    RedisPyCluster,
}

impl Kind {
    /// Those with one server.
    pub const ALL: [Self; 4] = [Self::RedisPy, Self::PythonRedisLock, Self::Rslock, Self::AsyncRedisLock];

    pub fn word(self) -> &'static str {
        match self {
            Self::RedisPy => "redis-py",
            Self::PythonRedisLock => "python-redis-lock",
            Self::Rslock => "rslock",
            Self::AsyncRedisLock => "async-redis-lock",
            Self::RedisPyCluster => "redis-py-cluster",
        }
    }

    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// One client process.
#[derive(Debug)]
pub struct Client(Child);

impl Client {
    /// Starts a client for this key, which is the name on the server.
    pub fn start(kind: Kind, url: &str, key: &str) -> Self {
        // A test is target/debug/deps/test-hash.
        let test = std::env::current_exe().unwrap();
        let folder = |up: usize| test.ancestors().nth(up).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("client.py");
        let (program, script) = match kind {
            Kind::RedisPy | Kind::PythonRedisLock | Kind::RedisPyCluster => {
                (folder(3).join("python/bin/python"), Some(script))
            }
            Kind::Rslock | Kind::AsyncRedisLock => (folder(2).join("interop-client"), None),
        };
        assert!(
            program.exists(),
            "{} is not there: `bash tests/run.sh --install-only` installs the Python clients into its target directory, \
             which these tests have to use too",
            program.display()
        );
        let mut child = Child::start(program, |command| {
            command.args(script).args([kind.word(), url, key]);
        });
        child.expect("ready");
        Self(child)
    }

    pub fn try_lock(&mut self) -> bool {
        self.0.send("try");
        match &*self.0.said() {
            "yes" => true,
            "no" => false,
            other => panic!("it says {other:?}"),
        }
    }

    /// Sends `lock`, without waiting for the answer.
    pub fn begin_to_wait(&mut self) {
        self.0.send("lock");
    }

    /// Whether it does not answer for a while.
    pub fn waits(&mut self) -> bool {
        self.0.line_within(Duration::from_millis(200)).is_none()
    }

    /// Waits until it has acquired the lock.
    pub fn has_it(&mut self) {
        self.0.expect("locked");
    }

    pub fn unlock(&mut self) {
        self.0.send("unlock");
        self.0.expect("unlocked");
    }

    /// Makes it acquire the lock repeatedly for this time, and record the holds under this name.
    pub fn begin_to_crowd(&mut self, history: &Path, name: &str, time: Duration) {
        self.0.send(&format!("crowd {} {name} {}", history.display(), time.as_secs_f64()));
    }

    /// Waits for the end of the time. Returns the number of holds.
    pub fn holds(&mut self) -> usize {
        self.0.said().parse().unwrap()
    }
}
