//! [`RedisFence`]: fencing of a key on Redis.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Script};

use super::StaleToken;
use crate::backend::redis::side;
use crate::token::FencingToken;

/// A key on Redis that refuses writes of outdated holders by their [`FencingToken`]s; [`FenceGate`](crate::FenceGate) does the
/// same within a process.
///
/// The server compares the token and writes the value in one step. The greatest token so far is stored at `{tag}%token:<key>`, in
/// the same cluster slot as the key. The key can be on any Redis server, and the locks on any backend; but all writers of the key
/// must hold the same lock, since tokens of different locks are not comparable.
///
/// Writes that do not use the script are not refused: `SET`, `DEL`, `FLUSHALL`, and an eviction policy that removes the token.
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
/// // The first `?` is for the server, the second for an outdated token.
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
    /// The Lua script, for other clients and languages.
    ///
    /// `KEYS` are the key and the [key of its token](Self::token_key); `ARGV` are the token, the value, and optionally the TTL of
    /// the value in milliseconds. The script returns nil if it has written the value, and the greatest token so far otherwise.
    /// Tokens are decimal and compared exactly.
    pub const SCRIPT: &str = include_str!("check_and_write.lua");

    /// Creates a fence for a key.
    pub fn new(key: impl Into<String>) -> Self {
        let key = key.into();
        Self { token_key: format!("{}token:{key}", side(&key)), key, ttl: None }
    }

    /// Sets the TTL of the value. By default the value does not expire. Fractions of a millisecond are cut, and less than 1 ms is
    /// raised to 1 ms.
    ///
    /// The token expires one month after the value; an outdated holder that writes later than that is not refused.
    ///
    /// ```
    /// let report = leasehold::RedisFence::new("report").ttl(std::time::Duration::from_secs(3600));
    /// assert_eq!(report.key(), "report");
    /// ```
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the key at which the greatest token so far is stored.
    pub fn token_key(&self) -> &str {
        &self.token_key
    }

    /// Writes a value, unless a greater token was admitted before. Equal tokens are admitted.
    ///
    /// # Errors
    ///
    /// The outer error is the client's, if the server refuses or does not answer. The inner error is [`StaleToken`], if a greater
    /// token was admitted before: nothing was written, and another client has held the lock since.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a command that was already sent may still take effect.
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
