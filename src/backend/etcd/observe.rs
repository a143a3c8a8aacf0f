//! The states of a key: its directory is read when a watch on it is confirmed, and changes are applied to what was read.

use std::sync::Arc;

use futures::stream::{self, Stream};

use super::directory_watch::{DirectoryWatch, News};
use super::parts::Parts;
use super::view::View;
use super::watch::hub::Filter;
use crate::backend::{ErrorKind, Result};
use crate::info::LockInfo;

/// One observer of a key.
struct Observer {
    parts: Arc<Parts>,
    key: Box<str>,
    watch: DirectoryWatch,
    /// What the directory contains, while that is known.
    view: Option<View>,
    has_ended: bool,
}

impl Observer {
    async fn next(&mut self) -> Result<Option<LockInfo>> {
        let inspector = &self.parts.inspector;
        loop {
            match self.watch.next().await {
                News::Unknown => {
                    self.view = None;
                    let view = self.view.insert(inspector.view(&self.key).await?);
                    self.watch.has_been_read();
                    return Ok(inspector.state(&self.key, view));
                }
                News::Changed(changes) => {
                    if let Some(view) = &mut self.view
                        && view.apply(&changes)
                    {
                        return Ok(inspector.state(&self.key, view));
                    }
                }
            }
        }
    }
}

/// Returns the states of a key.
pub(super) fn states(parts: Arc<Parts>, key: &str) -> impl Stream<Item = Result<Option<LockInfo>>> + use<> {
    let watch = DirectoryWatch::new(parts.connection.hub(), &parts.inspector.directory(key), Filter::None);
    let observer = Observer { parts, key: key.into(), watch, view: None, has_ended: false };
    stream::unfold(observer, |mut observer| async move {
        if observer.has_ended {
            return None;
        }
        let state = observer.next().await;
        observer.has_ended = state.as_ref().is_err_and(|error| error.kind() != ErrorKind::Unreachable);
        Some((state, observer))
    })
}
