//! The clients of all contenders, behind one trait.

use crate::Result;
use crate::servers::Server;

pub mod bare;
pub mod ours;
pub mod peers;

/// A client with connections that no other one shares.
pub trait Client: Sized + Send + Sync + 'static {
    type Lock: Lock;
    /// The prefix of its names on the server.
    const PREFIX: &str = "";

    async fn connect(server: &Server) -> Result<Self>;

    /// A lock, for one task.
    async fn lock(&self, key: &str) -> Result<Self::Lock>;
}

pub trait Lock: Send + 'static {
    type Held: Send + 'static;

    /// Waits for the lock.
    fn acquire(&mut self) -> impl Future<Output = Result<Self::Held>> + Send;

    fn release(&mut self, held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}
