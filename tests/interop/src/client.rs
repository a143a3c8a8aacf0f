//! Clients that are not ours: each is a process, has one lock, and does with it line by line what it is told.
//!
//! | told | says | |
//! | --- | --- | --- |
//! | | `ready` | once, at first |
//! | `try` | `yes`, `no` | tries to take the lock |
//! | `lock` | `locked` | waits for it |
//! | `unlock` | `unlocked` | releases it; ends badly if it is not held |
//! | `crowd HISTORY NAME SECONDS` | how often | takes and releases it for so long, and records that under a name |

use std::path::Path;
use std::time::Duration;

use support::child::Child;
use support::redis::Redis;

/// How long their locks live. The Python packages are told in client.py.
pub const TTL: Duration = Duration::from_secs(30);

/// How often they look where they have to.
pub const RETRY: Duration = Duration::from_millis(20);

/// How long a hold in a crowd lasts.
pub const HOLD: Duration = Duration::from_millis(1);

/// How long they pause at most between two of those: who is given no message needs a free lock to find.
pub const PAUSE: Duration = Duration::from_millis(20);

/// Who else takes locks on Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RedisPy,
    PythonRedisLock,
    Rslock,
    AsyncRedisLock,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::RedisPy, Self::PythonRedisLock, Self::Rslock, Self::AsyncRedisLock];

    pub fn word(self) -> &'static str {
        match self {
            Self::RedisPy => "redis-py",
            Self::PythonRedisLock => "python-redis-lock",
            Self::Rslock => "rslock",
            Self::AsyncRedisLock => "async-redis-lock",
        }
    }

    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// One such client.
#[derive(Debug)]
pub struct Client(Child);

impl Client {
    /// Starts one for this key, which is the name on the server.
    pub fn start(kind: Kind, server: &Redis, key: &str) -> Self {
        // A test is target/debug/deps/test-hash.
        let test = std::env::current_exe().unwrap();
        let folder = |up: usize| test.ancestors().nth(up).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("client.py");
        let (program, script) = match kind {
            Kind::RedisPy | Kind::PythonRedisLock => (folder(3).join("python/bin/python"), Some(script)),
            Kind::Rslock | Kind::AsyncRedisLock => (folder(2).join("interop-client"), None),
        };
        assert!(
            program.exists(),
            "{} is not there: `bash tests/run.sh --install-only` installs the Python clients into its target directory, \
             which these tests have to use too",
            program.display()
        );
        let mut child = Child::start(program, |command| {
            command.args(script).args([kind.word(), &server.url(), key]);
        });
        child.expect("ready");
        Self(child)
    }

    pub fn try_lock(&mut self) -> bool {
        self.0.tell("try");
        match &*self.0.said() {
            "yes" => true,
            "no" => false,
            other => panic!("it says {other:?}"),
        }
    }

    /// Makes it wait for the lock.
    pub fn begin_to_wait(&mut self) {
        self.0.tell("lock");
    }

    /// Whether it has said nothing for a while.
    pub fn waits(&mut self) -> bool {
        self.0.line_within(Duration::from_millis(200)).is_none()
    }

    /// Waits until it has the lock that it waits for.
    pub fn has_it(&mut self) {
        self.0.expect("locked");
    }

    pub fn unlock(&mut self) {
        self.0.tell("unlock");
        self.0.expect("unlocked");
    }

    /// Makes it take the lock again and again for this time, and record that under this name.
    pub fn begin_to_crowd(&mut self, history: &Path, name: &str, time: Duration) {
        self.0.tell(&format!("crowd {} {name} {}", history.display(), time.as_secs_f64()));
    }

    /// How often it had the lock, when the time is over.
    pub fn holds(&mut self) -> usize {
        self.0.said().parse().unwrap()
    }
}
