//! A hold that replicas have to confirm.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::attempt::Attempt;
use super::place::Won;
use super::requests::Way;
use crate::backend::{BackendError, Result};

#[derive(Debug)]
pub(super) struct Unconfirmed {
    pub(super) attempt: Arc<Attempt>,
    pub(super) epoch: u64,
    pub(super) reply: oneshot::Sender<Result<Won>>,
    /// How its node is asked, and how often another one was.
    pub(super) way: Way,
    pub(super) redirects: u8,
}

impl Unconfirmed {
    pub(super) fn fail(self, error: BackendError) {
        // A caller that has left does not need it.
        let _ = self.reply.send(Err(error));
    }
}
