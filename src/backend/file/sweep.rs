//! The removal of what killed processes have left, and of unused keys.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::Notify;

use super::directory::{Directory, SWEEP_BYTE};
use super::epoch::since_1970;
use super::folder::{Folder, modified, set_modified};
use super::key::KeyFile;
use super::life::{Life, remove_files};
use super::locks::{self, Sees};
use super::names::{KeyName, LeaseName, is_hashed, key_of};
use super::queue::{Before, join, look};
use super::record::{Record, SWEEP};
use super::site::Site;
use crate::backend::{AttemptId, Result};
use crate::info::Mode;

/// The time between two sweeps of a directory, and the time for which a key must have been unused.
const EVERY: Duration = Duration::from_secs(60);

/// The TTL of the lease of a sweep, which holds each key for some microseconds.
const TTL: Duration = Duration::from_secs(5);

/// Sweeps, unless another manager does, or has done so lately.
pub(super) fn sweep(site: &Site) -> Result<()> {
    let directory = &site.directory;
    let last_time = rustix::fs::fstat(&directory.slots).map_or(0, |stat| modified(&stat));
    if !is_old(last_time) || !locks::lock(&directory.slots, Mode::Exclusive, SWEEP_BYTE).unwrap_or(false) {
        return Ok(());
    }
    // Of another user's file it cannot be set, and then each manager sweeps.
    let _ = set_modified(&directory.slots, since_1970() * 1000);
    let swept = sweep_all(site);
    let _ = locks::unlock(&directory.slots, SWEEP_BYTE);
    swept
}

fn sweep_all(site: &Site) -> Result<()> {
    let directory = &site.directory;
    sweep_leases(directory);
    sweep_mailboxes(directory);
    sweep_marks(directory);
    sweep_drafts(&directory.root);
    sweep_keys(site)
}

/// Whether a time in nanoseconds since 1970 is long ago. One in the future is, too: the clock was set back.
fn is_old(modified: u64) -> bool {
    let now = since_1970() * 1000;
    now.abs_diff(modified) >= u64::try_from(EVERY.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether nobody reads a FIFO, or there is none.
fn has_no_reader(folder: &Folder, name: &str) -> bool {
    let opened = folder.open(name, OFlags::WRONLY | OFlags::NONBLOCK);
    matches!(opened, Err(Errno::NXIO | Errno::NOENT))
}

/// Removes leases without a reader. A lease that is being made has none either, but has its slot.
fn sweep_leases(directory: &Directory) {
    for file in directory.leases.names().unwrap_or_default() {
        let Some(name) = LeaseName::of_file(&file) else { continue };
        let is_dead =
            || has_no_reader(&directory.leases, &name.life()) && has_no_reader(&directory.leases, &name.out());
        if is_dead() && directory.take_this_slot(name.slot) {
            if is_dead() {
                remove_files(directory, name);
            }
            directory.free_slot(name.slot);
        }
    }
}

/// Removes mailboxes without a reader. They get their names when they have one.
fn sweep_mailboxes(directory: &Directory) {
    for file in directory.mailboxes.names().unwrap_or_default() {
        if !file.starts_with('.') && has_no_reader(&directory.mailboxes, &file) {
            let _ = directory.mailboxes.remove(&file);
        }
    }
    sweep_drafts(&directory.mailboxes);
}

/// Removes the marks of claims whose leases no longer exist.
fn sweep_marks(directory: &Directory) {
    for file in directory.marks.names().unwrap_or_default() {
        let Some(name) = LeaseName::of_mark(&file) else { continue };
        let is_missing = |file: &str| matches!(directory.leases.stat(file), Ok(None));
        if is_missing(&name.life()) && is_missing(&name.out()) {
            let _ = directory.marks.remove(&file);
        }
    }
}

/// Removes files that were to get another name.
fn sweep_drafts(folder: &Folder) {
    for file in folder.names().unwrap_or_default() {
        let is_old_draft =
            file.starts_with('.') && matches!(folder.stat(&file), Ok(Some(stat)) if is_old(modified(&stat)));
        if is_old_draft {
            let _ = folder.remove(&file);
        }
    }
}

/// Removes the files of unused keys, each while it is held exclusively: its waiters then go to the new file.
fn sweep_keys(site: &Site) -> Result<()> {
    let directory = &site.directory;
    sweep_drafts(&directory.keys);
    let mut unused = Vec::new();
    for file in directory.keys.names().unwrap_or_default() {
        let is_known = key_of(&file).is_some() || is_hashed(&file);
        let is_unused = is_known && matches!(directory.keys.stat(&file), Ok(Some(stat)) if is_old(modified(&stat)));
        if is_unused {
            unused.push(KeyName { file, inside: None });
        }
    }
    if unused.is_empty() {
        return Ok(());
    }
    let record = Record {
        version: SWEEP,
        name: "sweep".into(),
        host: String::new(),
        pid: std::process::id(),
        pid_namespace: super::kernel::pid_namespace(),
        ttl_ms: u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX),
        mailbox: site.mailbox.name.clone(),
    };
    let life = Arc::new(Life::begin(directory, &record, site.peers.clock())?.0);
    for name in unused {
        if let Some(file) = KeyFile::open_existing(directory, &name)? {
            sweep_key(site, Arc::new(file), &life)?;
            life.renew(site.peers.clock())?;
        }
    }
    Ok(())
}

fn sweep_key(site: &Site, file: Arc<KeyFile>, life: &Arc<Life>) -> Result<()> {
    let queued =
        file.query(Sees::All, 0..i64::MAX).map_err(|error| super::error::failed("look at the queue", error))?;
    if queued.is_some() {
        return Ok(());
    }
    let attempt = AttemptId(rand::random());
    let placed = join(attempt, &file, Mode::Exclusive, life, &site.peers, &Arc::new(Notify::new()), None)?;
    let state = file.state()?;
    let is_first = matches!(look(&file, &site.peers, placed.place, Mode::Exclusive, state)?, Before::Nothing);
    // It may have been used since it was listed.
    if is_first && state.has_name && is_old(file.last_use()? * 1000) {
        life.prove()?;
        file.remove()?;
    }
    Ok(())
}
