//! The connection for commands, which managers share, and the way to the next one when it breaks.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::options::{Server, Target};
use crate::backend::Result;
use crate::backend::shared::Pool;

/// One connection. Whoever finds it broken first makes the next one.
#[derive(Debug, Default)]
pub(super) struct SharedConnection(Mutex<Option<Connection>>);

/// A connection, and which one in a row it is, beginning with 1.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) connection: MultiplexedConnection,
}

impl SharedConnection {
    /// Returns the line of all managers with this target, or a new one if the user has put the target together.
    pub(super) async fn to(target: &Target, handle: &Handle) -> Result<Arc<Self>> {
        static LINES: Pool<Server, SharedConnection> = Pool::new();
        match target {
            Target::Server(server) => LINES.get(handle.id(), server.clone(), async { Ok(Arc::default()) }).await,
            Target::Client(_) => Ok(Arc::default()),
        }
    }

    /// Returns the connection in use, unless it is number `broken` or there is none; then `open` makes it.
    pub(super) async fn link(
        &self,
        broken: u64,
        open: impl Future<Output = Result<MultiplexedConnection>>,
    ) -> Result<Connection> {
        let mut current = self.0.lock().await;
        match &*current {
            Some(link) if link.number != broken => Ok(link.clone()),
            _ => {
                let link = Connection { number: broken + 1, connection: open.await? };
                *current = Some(link.clone());
                Ok(link)
            }
        }
    }
}
