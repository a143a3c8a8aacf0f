//! One server of a manager, as far as its requests are concerned.

use std::sync::Arc;

use super::batch::Batch;
use super::replicas::Replicas;

#[derive(Debug)]
pub(super) struct Serving {
    pub(super) batch: Arc<Batch>,
    /// `None` if no replica has to confirm.
    pub(super) replicas: Option<Replicas>,
}
