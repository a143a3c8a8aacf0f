//! The keys that this manager uses, each with one open file.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::directory::Directory;
use super::key::KeyFile;
use super::names::KeyName;
use super::site::Sites;
use crate::backend::{Claim, ErrorKind, Result, derived};

/// A key, and its file while that is open.
#[derive(Debug)]
pub(super) struct Key {
    name: KeyName,
    file: Mutex<Option<Arc<KeyFile>>>,
    keys: Weak<Keys>,
}

impl Key {
    /// Returns the open file, if it is that of this directory. It may have lost its name.
    pub(super) fn opened(&self, directory: &Arc<Directory>) -> Option<Arc<KeyFile>> {
        self.file.lock().clone().filter(|file| Arc::ptr_eq(&file.directory, directory))
    }

    /// Closes a file that has lost its name.
    pub(super) fn forget(&self, file: &Arc<KeyFile>) {
        let mut opened = self.file.lock();
        if opened.as_ref().is_some_and(|opened| Arc::ptr_eq(opened, file)) {
            *opened = None;
        }
    }

    /// Opens the file anew, unless it is open.
    pub(super) async fn open(&self, sites: &Sites, directory: &Arc<Directory>) -> Result<Arc<KeyFile>> {
        if let Some(file) = self.opened(directory) {
            return Ok(file);
        }
        let mut opened = self.open_anew(sites, directory).await;
        // The descriptors that are missing may be those of keys that nothing uses.
        if opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::Refused)
            && let Some(keys) = self.keys.upgrade()
        {
            keys.close();
            opened = self.open_anew(sites, directory).await;
        }
        let opened = Arc::new(opened?);
        *self.file.lock() = Some(opened.clone());
        Ok(opened)
    }

    async fn open_anew(&self, sites: &Sites, directory: &Arc<Directory>) -> Result<KeyFile> {
        let (name, within) = (self.name.clone(), directory.clone());
        sites.do_path_work(directory, move || KeyFile::open(&within, &name)).await?
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        if let Some(keys) = self.keys.upgrade() {
            let mut known = keys.known.lock();
            // There may be a new one already.
            if known.get(&self.name.file).is_some_and(|key| key.strong_count() == 0) {
                known.remove(&self.name.file);
            }
        }
    }
}

/// How many keys keep their files open although nothing uses them: the next use costs less.
const RECENT: usize = 32;

/// The keys in use.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
    recent: Mutex<VecDeque<Arc<Key>>>,
    known: Mutex<HashMap<String, Weak<Key>, foldhash::fast::RandomState>>,
}

impl Keys {
    pub(super) fn new(prefix: String) -> Arc<Self> {
        Arc::new(Self { prefix, recent: Mutex::default(), known: Mutex::default() })
    }

    pub(super) fn name(&self, key: &str) -> KeyName {
        KeyName::new(&format!("{}{key}", self.prefix))
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the key of a claim.
    pub(super) fn of(self: &Arc<Self>, claim: &Claim) -> Arc<Key> {
        let derived: std::result::Result<_, std::convert::Infallible> =
            derived(claim, || Ok(self.get(self.name(&claim.key))));
        let Ok(key) = derived;
        key
    }

    fn get(self: &Arc<Self>, name: KeyName) -> Arc<Key> {
        let key = {
            let mut known = self.known.lock();
            if let Some(key) = known.get(&name.file).and_then(Weak::upgrade) {
                return key;
            }
            let key = Arc::new(Key { name: name.clone(), file: Mutex::default(), keys: Arc::downgrade(self) });
            known.insert(name.file, Arc::downgrade(&key));
            key
        };
        let oldest = {
            let mut recent = self.recent.lock();
            recent.push_back(key.clone());
            if recent.len() > RECENT { recent.pop_front() } else { None }
        };
        // Outside of the mutexes, which its end locks.
        drop(oldest);
        key
    }

    /// Closes the files of the keys that nothing uses.
    pub(super) fn close(&self) {
        let recent = std::mem::take(&mut *self.recent.lock());
        drop(recent);
    }
}
