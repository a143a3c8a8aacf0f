//! Refusing what comes too late, on Redis.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::StaleToken;
use crate::backend::redis::side;
use crate::token::FencingToken;

/// A key of your own on Redis that refuses holders who come too late, by their [`FencingToken`]s; see
/// [`FenceGate`](crate::FenceGate) for the same within a process.
///
/// The server compares and writes in one step. The greatest token so far is kept beside the key, in the same slot of a cluster,
/// as `{tag}%token:<key>`. It need not be the Redis of the locks, nor need those be on Redis; but all who write the key have to be
/// holders of the same lock, for tokens of different locks mean nothing to each other.
///
/// What goes around it is not refused: a plain `SET`, `DEL` or `FLUSHALL`, and an eviction policy that removes the token.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use leasehold::{LockManager, RedisFence};
///
/// let mut redis = redis::Client::open("redis://10.0.0.1")?.get_multiplexed_async_connection().await?;
/// let manager = LockManager::connect("redis://10.0.0.1").await?;
/// let report = RedisFence::new("report");
///
/// let guard = manager.lock("report").await?;
/// // The first `?` is for the server, the second for a token that is too late.
/// report.set(&mut redis, guard.token(), "done").await??;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RedisFence {
    key: String,
    token_key: String,
    ttl: Option<Duration>,
}

impl RedisFence {
    /// The script, for clients and languages of all sorts.
    ///
    /// `KEYS` are the key and the [key of its token](Self::token_key); `ARGV` are the token, the value, and for how many
    /// milliseconds the value lives, which may be left out. It answers nil if it has written, and else the greatest token so far.
    /// Tokens are in decimal, and compared without being rounded.
    pub const SCRIPT: &str = include_str!("check_and_write.lua");

    /// Names the key.
    pub fn new(key: impl Into<String>) -> Self {
        let key = key.into();
        Self { token_key: format!("{}token:{key}", side(&key)), key, ttl: None }
    }

    /// Sets for how long a value lives, in milliseconds and one at least; otherwise it lives for ever. Its token lives for a month
    /// more: no holder may come later than that.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the key at which the greatest token so far is kept.
    pub fn token_key(&self) -> &str {
        &self.token_key
    }

    /// Writes a value if nobody with a greater token has been here. The same token may come again.
    ///
    /// # Errors
    ///
    /// That of the client if the server refuses or does not answer. Inside, [`StaleToken`]: nothing was written, and the lock is
    /// another's.
    ///
    /// # Cancel safety
    ///
    /// What was sent may be written, as with any command of the client.
    pub async fn set(
        &self,
        connection: &mut impl ConnectionLike,
        token: FencingToken,
        value: impl AsRef<[u8]>,
    ) -> RedisResult<Result<(), StaleToken>> {
        static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(RedisFence::SCRIPT));
        let mut call = SCRIPT.key(&self.key);
        call.key(&self.token_key).arg(token.get()).arg(value.as_ref());
        if let Some(ttl) = self.ttl {
            call.arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        }
        let greatest: Option<u64> = call.invoke_async(connection).await?;
        Ok(match greatest {
            Some(greatest) => Err(StaleToken { token, greatest: greatest.into() }),
            None => Ok(()),
        })
    }
}
