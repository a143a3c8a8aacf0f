//! One opening of the directory with all that depends on it. It is replaced when the directory is.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::directory::Directory;
use super::error::closed;
use super::mailbox::Mailbox;
use super::options::Options;
use super::peers::Peers;
use crate::backend::{BackendError, BoxFuture, Clock, ErrorKind, Result};
use crate::process::fork::ForkDetector;
use crate::process::inbox::Inbox;

/// The directory, the leases of the others in it, and the mailbox of this manager.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) directory: Arc<Directory>,
    pub(super) peers: Arc<Peers>,
    pub(super) mailbox: Arc<Mailbox>,
    /// The mailbox for the threads that wait for a message.
    inbox: OnceLock<Arc<Inbox>>,
    reader: Mutex<Option<AbortHandle>>,
    fork: ForkDetector,
}

impl Site {
    fn open(options: &Options, clock: &Arc<dyn Clock>) -> Result<Self> {
        let directory = Arc::new(Directory::open(&options.directory, options.mode)?);
        let mailbox = Arc::new(Mailbox::create(&directory)?);
        let peers = Arc::new(Peers::new(directory.clone(), clock.clone()));
        let (inbox, reader) = (OnceLock::new(), Mutex::default());
        Ok(Self { directory, peers, mailbox, inbox, reader, fork: ForkDetector::new() })
    }

    /// Notes the task that reads the mailbox, which ends with this value.
    pub(super) fn read_by(&self, inbox: Arc<Inbox>, reader: AbortHandle) {
        let _ = self.inbox.set(inbox);
        *self.reader.lock() = Some(reader);
    }

    /// What reads the mailbox and delivers the messages, once that has been started.
    pub(super) fn inbox(&self) -> Option<&Arc<Inbox>> {
        self.inbox.get()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.fork.is_forked() {
            return;
        }
        if let Some(reader) = self.reader.lock().take() {
            reader.abort();
        }
        // A sweep removes what cannot be removed now.
        let _ = self.directory.mailboxes.remove(&self.mailbox.name);
    }
}

/// The present site.
#[derive(Debug)]
pub(super) struct Sites {
    options: Options,
    clock: Arc<dyn Clock>,
    handle: Handle,
    /// `None` once it was closed.
    current: Mutex<Option<Arc<Site>>>,
}

impl Sites {
    pub(super) async fn open(options: Options, clock: Arc<dyn Clock>, handle: Handle) -> Result<Self> {
        let sites = Self { options, clock, handle, current: Mutex::default() };
        let site = sites.make().await?;
        *sites.current.lock() = Some(site);
        Ok(sites)
    }

    async fn make(&self) -> Result<Arc<Site>> {
        let (options, clock) = (self.options.clone(), self.clock.clone());
        self.aside(move || Site::open(&options, &clock)).await?.map(Arc::new)
    }

    pub(super) fn current(&self) -> Result<Arc<Site>> {
        self.current.lock().clone().ok_or_else(closed)
    }

    /// Returns the present site, after another opening if the directory was removed or replaced.
    pub(super) async fn renewed(&self) -> Result<(Arc<Site>, bool)> {
        let site = self.current()?;
        if site.directory.is_current() {
            return Ok((site, false));
        }
        let new = self.make().await?;
        let mut current = self.current.lock();
        match &*current {
            None => Err(closed()),
            // Another call was faster.
            Some(other) if !Arc::ptr_eq(other, &site) => Ok((other.clone(), false)),
            Some(_) => {
                *current = Some(new.clone());
                Ok((new, true))
            }
        }
    }

    pub(super) fn close(&self) -> Option<Arc<Site>> {
        self.current.lock().take()
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Does work with paths, which may wait for a disk: at once if the directory is in memory, else on another thread.
    pub(super) async fn do_path_work<T: Send + 'static>(
        &self,
        directory: &Directory,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if directory.is_in_memory { Ok(work()) } else { self.aside(work).await }
    }

    /// Does work on another thread.
    pub(super) fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let done = self.handle.spawn_blocking(work);
        Box::pin(async {
            let ended = |error| BackendError::new(ErrorKind::Unreachable, format!("work on files has ended: {error}"));
            done.await.map_err(ended)
        })
    }
}
