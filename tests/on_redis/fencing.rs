//! Fenced writes on Redis, which an outdated holder cannot make.

use std::time::Duration;

use leasehold::{FencingToken, LockManager, RedisFence, StaleToken};
use redis::aio::MultiplexedConnection;
use support::redis::Redis;

/// A fenced key on the server that all tests share.
struct Fenced {
    fence: RedisFence,
    connection: MultiplexedConnection,
}

impl Fenced {
    async fn new(fence: RedisFence) -> Self {
        let client = redis::Client::open(Redis::shared().url()).unwrap();
        Self { fence, connection: client.get_multiplexed_async_connection().await.unwrap() }
    }

    async fn set(&mut self, token: impl Into<FencingToken>, value: &str) -> Result<(), StaleToken> {
        self.fence.set(&mut self.connection, token.into(), value).await.unwrap()
    }

    fn value(&self) -> String {
        Redis::shared().cli(&["GET", self.fence.key()])
    }
}

#[tokio::test]
async fn the_late_write_of_a_paused_holder_is_refused() {
    let connect = || LockManager::connect(Redis::shared().url());
    let (a, b) = (connect().await.unwrap(), connect().await.unwrap());
    let mut fenced = Fenced::new(RedisFence::new("fenced")).await;
    let paused = a.lock("k").await.unwrap();
    fenced.set(paused.token(), "first").await.unwrap();
    fenced.set(paused.token(), "first again").await.unwrap();
    // The paused holder does not know of its loss: another one has the lock, and has written.
    b.force_unlock("k").await.unwrap();
    let guard = b.lock("k").await.unwrap();
    fenced.set(guard.token(), "second").await.unwrap();
    // From another task.
    let token = paused.token();
    let late = tokio::spawn(async move { (fenced.set(token, "first, too late").await, fenced) });
    let (refused, fenced) = late.await.unwrap();
    let refused = refused.unwrap_err();
    assert_eq!((refused.token, refused.greatest), (paused.token(), guard.token()));
    assert_eq!(fenced.value(), "second");
}

#[tokio::test]
async fn tokens_are_compared_to_the_last_digit() {
    let mut fenced = Fenced::new(RedisFence::new("digits")).await;
    let float = 1 << 53;
    assert_eq!(((float + 1) as f64) as u64, float, "where floats are too coarse");
    for token in [0, 9, 10, 99, 100, float, float + 1, float + 2, u64::MAX - 1, u64::MAX] {
        fenced.set(token, &token.to_string()).await.unwrap();
        assert_eq!(fenced.value(), token.to_string());
        for late in [token.checked_sub(1), Some(0).filter(|_| token > 0), Some(9).filter(|_| token > 9)] {
            let Some(late) = late else { continue };
            let refused = fenced.set(late, "too late").await.unwrap_err();
            assert_eq!((refused.token.get(), refused.greatest.get()), (late, token));
        }
        assert_eq!(fenced.value(), token.to_string());
    }
}

#[tokio::test]
async fn a_token_outlives_a_value_that_expires() {
    let mut fenced = Fenced::new(RedisFence::new("brief").ttl(Duration::from_millis(50))).await;
    fenced.set(7, "gone soon").await.unwrap();
    support::eventually("the value has expired", || fenced.value().is_empty().then_some(()));
    assert_eq!(fenced.set(6, "too late").await.unwrap_err().greatest.get(), 7);
    let left: u64 = Redis::shared().cli(&["TTL", fenced.fence.token_key()]).parse().unwrap();
    assert!(left > 29 * 24 * 60 * 60, "{left}");

    let mut lasting = Fenced::new(RedisFence::new("lasting")).await;
    lasting.set(7, "stays").await.unwrap();
    for key in [lasting.fence.key(), lasting.fence.token_key()] {
        assert_eq!(Redis::shared().cli(&["TTL", key]), "-1", "{key}");
    }
}

#[test]
fn the_token_is_in_the_slot_of_its_key() {
    let cluster = Redis::start_with(&["--cluster-enabled", "yes"]);
    let slot = |key: &str| cluster.cli(&["CLUSTER", "KEYSLOT", key]);
    for key in ["k", "a b", "{user}:report", "a}b", "{}x", "鍵"] {
        let fence = RedisFence::new(key);
        assert_ne!(fence.token_key(), key);
        assert_eq!(slot(fence.token_key()), slot(key), "{fence:?}");
    }
}

#[test]
fn tokens_are_not_listed_as_locks() {
    let redis = Redis::shared();
    let manager = LockManager::connect(format!("{}?prefix=", redis.url())).wait().unwrap();
    redis.cli(&["SET", RedisFence::new("hidden").token_key(), "1"]);
    let listed = manager.list("").wait().unwrap();
    assert!(listed.iter().all(|info| !info.key.contains("hidden")), "{listed:?}");
}

#[test]
fn any_client_can_use_the_script() {
    let redis = Redis::shared();
    let run = |arguments: &[&str]| {
        redis.cli(&[&["EVAL", RedisFence::SCRIPT, "2", "plain", "plain:token"], arguments].concat())
    };
    assert_eq!(run(&["007", "first"]), "");
    assert_eq!(run(&["8", "second", "60000"]), "");
    assert_eq!(run(&["7", "too late"]), "8");
    assert_eq!(redis.cli(&["GET", "plain"]), "second");
    let left: u64 = redis.cli(&["PTTL", "plain"]).parse().unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn an_invalid_token_is_an_error_and_nothing_is_written() {
    let redis = Redis::shared();
    let mut fenced = Fenced::new(RedisFence::new("broken")).await;
    for wrong in ["1e15", "-1", "", "7.0", " 7"] {
        redis.cli(&["SET", fenced.fence.token_key(), wrong]);
        let error = fenced.fence.set(&mut fenced.connection, FencingToken::from(8), "never").await.unwrap_err();
        assert!(error.to_string().contains("not a fencing token"), "{wrong:?}: {error}");
        let mut call = redis.cli_command();
        call.args(["-e", "EVAL", RedisFence::SCRIPT, "2", "broken", "broken:token", wrong, "never"]);
        let output = call.output().unwrap();
        assert!(
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).contains("not a fencing token"),
            "{wrong:?}"
        );
    }
    assert_eq!(fenced.value(), "");
}
