//! A connection of its own to a server, each of whose answers is waited for a while only.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisError};

use super::super::options::Target;
use super::super::{client, error};
use crate::backend::examination::PATIENCE;
use crate::backend::{ErrorKind, Result};

/// A connection.
pub(super) struct Asking {
    pub(super) target: Target,
    connection: MultiplexedConnection,
}

/// What a server answers to a command: something, or an error, the connection being sound.
pub(super) type Answer<T> = std::result::Result<T, RedisError>;

impl Asking {
    pub(super) async fn open(target: Target) -> Result<Self> {
        let opening = async {
            let account = target.credentials(PATIENCE).await?;
            client::connect(&target, account.as_ref()).await
        };
        let connection = within(&target, opening).await?;
        Ok(Self { target, connection })
    }

    /// Sends a command. An error is one of the connection.
    pub(super) async fn answer<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<Answer<T>> {
        let Self { target, connection } = self;
        let asking = async { Ok(command.query_async::<T>(connection).await) };
        match within(target, asking).await? {
            Err(error)
                if client::explain(target, &error).kind() == ErrorKind::Unreachable
                    && error::meaning(&error).is_none() =>
            {
                Err(client::explain(target, &error))
            }
            answer => Ok(answer),
        }
    }
}

/// Bounds what a server may take for a step.
pub(super) async fn within<T>(target: &Target, step: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(error::no_answer(&target.to_string(), PATIENCE));
    tokio::time::timeout(PATIENCE, step).await.unwrap_or_else(late)
}

/// A command of these words.
pub(super) fn command(words: &[&str]) -> Cmd {
    words.iter().fold(Cmd::new(), |mut command, word| {
        command.arg(*word);
        command
    })
}
