//! The kernel's locks on single bytes, which belong to the open file description.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::ticket::Place;
use crate::info::Mode;

/// A lock of another description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) mode: Mode,
}

/// Which locks a query reports: those that conflict with a lock of this mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sees {
    Writers,
    All,
}

impl Sees {
    /// What excludes a claim of this mode.
    pub(super) fn blockers_of(mode: Mode) -> Self {
        match mode {
            Mode::Exclusive => Self::All,
            Mode::Shared => Self::Writers,
        }
    }
}

fn lock_of(kind: libc::c_int, range: &Range<i64>) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range.start,
        l_len: range.end - range.start,
        l_pid: 0,
    }
}

fn kind_of(mode: Mode) -> libc::c_int {
    match mode {
        Mode::Exclusive => libc::F_WRLCK,
        Mode::Shared => libc::F_RDLCK,
    }
}

/// Locks one byte. False if another description has a lock that excludes it.
pub(super) fn lock(file: &OwnedFd, mode: Mode, byte: i64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(kind_of(mode), &(byte..byte + 1)))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Unlocks one byte.
pub(super) fn unlock(file: &OwnedFd, byte: i64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(libc::F_UNLCK, &(byte..byte + 1))))?;
    Ok(())
}

/// Returns some lock of another description in the range.
///
/// # Errors
///
/// `InvalidData` for a lock of more than one byte, which is not one of ours.
pub(super) fn query(file: &OwnedFd, sees: Sees, range: Range<i64>) -> io::Result<Option<Found>> {
    if range.is_empty() {
        return Ok(None);
    }
    let asked = match sees {
        Sees::Writers => libc::F_RDLCK,
        Sees::All => libc::F_WRLCK,
    };
    let mut found = lock_of(asked, &range);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    if found.l_type == libc::F_UNLCK as libc::c_short {
        return Ok(None);
    }
    if found.l_len != 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "another program has locked the key's file"));
    }
    let mode = if found.l_type == libc::F_WRLCK as libc::c_short { Mode::Exclusive } else { Mode::Shared };
    Ok(Some(Found { place: Place::at(found.l_start), mode }))
}
