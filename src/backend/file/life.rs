//! A lease of this manager: its files are its right, its open FIFO is its life, the FIFO's time its last renewal.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, fstat};

use super::directory::Directory;
use super::error::{failed, lost};
use super::folder::{has_name, set_modified};
use super::names::LeaseName;
use super::record::Record;
use crate::backend::{Clock, LeaseId, Result, Timestamp};
use crate::process::fork::ForkDetector;

/// A lease of this manager.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) directory: Arc<Directory>,
    pub(super) name: LeaseName,
    /// The names of its files, which are needed at each grant.
    file: String,
    inode: u64,
    /// Open for reading: a process that has it open for writing sees that this one lives, and notices its end.
    fifo: OwnedFd,
    has_ended: AtomicBool,
    fork: ForkDetector,
}

/// Gives a slot back, unless a lease has it.
struct Slot<'a>(&'a Directory, Option<u16>);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.1 {
            self.0.free_slot(slot);
        }
    }
}

impl Life {
    /// Makes the files of a new lease. Returns the time that its first proof is of.
    pub(super) fn begin(directory: &Arc<Directory>, record: &Record, clock: &dyn Clock) -> Result<(Self, Timestamp)> {
        let failed = |error: rustix::io::Errno| failed("make a lease", error);
        let slot = directory.take_slot()?;
        let mut taken = Slot(directory, Some(slot));
        let name = LeaseName { slot, id: LeaseId(rand::random()) };
        let (file, leases) = (name.life(), &directory.leases);
        let make = || {
            record.write(leases, &name.record())?;
            let fifo = leases.create_fifo(&file, OFlags::RDONLY)?;
            let proven = clock.now();
            set_modified(&fifo, proven.as_nanos())?;
            Ok((fstat(&fifo)?.st_ino, fifo, proven))
        };
        let (inode, fifo, proven) = make().inspect_err(|_| remove_files(directory, name)).map_err(failed)?;
        taken.1 = None;
        let (directory, has_ended) = (directory.clone(), AtomicBool::new(false));
        Ok((Self { directory, name, file, inode, fifo, has_ended, fork: ForkDetector::new() }, proven))
    }

    /// Renews it. Returns the time of the proof: the name is still there *after* the time was set.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if others have taken the name away.
    pub(super) fn renew(&self, clock: &dyn Clock) -> Result<Timestamp> {
        let now = clock.now();
        set_modified(&self.fifo, now.as_nanos()).map_err(|error| failed("renew a lease", error))?;
        #[cfg(test)]
        super::gates::pass(super::gates::Gate::Renewed);
        self.prove()?;
        Ok(now)
    }

    /// Checks that it has its name.
    pub(super) fn prove(&self) -> Result<()> {
        let named = self.directory.leases.stat(&self.file).map_err(|error| failed("look at a lease", error))?;
        let is_named = named.is_some_and(|named| named.st_ino == self.inode);
        if is_named && !self.has_ended() { Ok(()) } else { Err(lost()) }
    }

    /// Whether it has been revoked: a cheaper check than that of the name.
    pub(super) fn is_revoked(&self) -> bool {
        self.has_ended() || fstat(&self.fifo).is_ok_and(|stat| !has_name(&stat))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Marks it as ended. False if it was.
    pub(super) fn mark_ended(&self) -> bool {
        !self.has_ended.swap(true, Ordering::AcqRel)
    }

    /// Removes its files.
    pub(super) fn remove(&self) {
        if !self.fork.is_forked() {
            remove_files(&self.directory, self.name);
        }
    }

    /// Whether this is a fork of the process whose lease it is.
    pub(super) fn is_forked(&self) -> bool {
        self.fork.is_forked()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if !self.is_forked() {
            self.remove();
            self.directory.free_slot(self.name.slot);
        }
    }
}

/// Removes the files of a lease.
pub(super) fn remove_files(directory: &Directory, name: LeaseName) {
    for file in [name.life(), name.out(), name.record()] {
        // A sweep removes what cannot be removed now.
        let _ = directory.leases.remove(&file);
    }
}
