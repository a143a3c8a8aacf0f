//! The file of a key, with this manager's claims on it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{fstat, ftruncate};
use rustix::io::{pread, pwrite};
use tokio::sync::Notify;

use super::directory::Directory;
use super::error::failed;
use super::folder::has_name;
use super::locks::{self, Found, Sees};
use super::names::{KEY_OFFSET, KeyName, MARKED_SIZE};
use super::ticket::Place;
use crate::backend::{BackendError, ErrorKind, Result};
use crate::info::Mode;

/// The longest key, with its prefix.
const MAX_KEY_BYTES: usize = 4096;

/// A claim of this manager on a key. The kernel does not report it to the manager itself.
#[derive(Clone, Debug)]
pub(super) struct OwnPlace {
    pub(super) place: Place,
    pub(super) mode: Mode,
    pub(super) wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Own {
    last_ticket: u64,
    claims: Vec<OwnPlace>,
}

/// The open file of a key.
#[derive(Debug)]
pub(super) struct KeyFile {
    pub(super) directory: Arc<Directory>,
    pub(super) name: KeyName,
    pub(super) inode: u64,
    file: OwnedFd,
    own: Mutex<Own>,
}

/// What the file of a key is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyState {
    /// Whether it has its name: otherwise all claims on it are void.
    pub(super) has_name: bool,
    /// Whether single claims on it may be void.
    pub(super) is_marked: bool,
}

impl KeyFile {
    /// Opens the file of a key, which is made if there is none.
    pub(super) fn open(directory: &Arc<Directory>, name: &KeyName) -> Result<Self> {
        let failed = |error| failed("open the key's file", error);
        let file = match &name.inside {
            None => directory.keys.open_or_create(&name.file).map_err(failed)?,
            Some(key) => Self::open_hashed(directory, &name.file, key).map_err(failed)?,
        };
        let file = Self::of_file(directory, name, file)?;
        if let Some(key) = &name.inside
            && key_inside(&file.file).as_ref() != Some(key)
        {
            let reason = "another key has the same hash; use a shorter key";
            return Err(BackendError::new(ErrorKind::Incompatible, reason));
        }
        Ok(file)
    }

    /// Opens the file of a key if there is one.
    pub(super) fn open_existing(directory: &Arc<Directory>, name: &KeyName) -> Result<Option<Self>> {
        match directory.keys.open(&name.file, rustix::fs::OFlags::RDWR) {
            Ok(file) => Self::of_file(directory, name, file).map(Some),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("open the key's file", error)),
        }
    }

    fn of_file(directory: &Arc<Directory>, name: &KeyName, file: OwnedFd) -> Result<Self> {
        let stat = fstat(&file).map_err(|error| failed("look at the key's file", error))?;
        Ok(Self { directory: directory.clone(), name: name.clone(), inode: stat.st_ino, file, own: Mutex::default() })
    }

    /// A file gets the name of a hashed key when the key is in it.
    fn open_hashed(directory: &Directory, name: &str, key: &str) -> rustix::io::Result<OwnedFd> {
        loop {
            match directory.keys.open(name, rustix::fs::OFlags::RDWR) {
                Err(rustix::io::Errno::NOENT) => {}
                opened => return opened,
            }
            let draft = format!(".{:016x}", rand::random::<u64>());
            let file = directory.keys.create(&draft)?;
            let named = pwrite(&file, key.as_bytes(), KEY_OFFSET).and_then(|_| directory.keys.link(&draft, name));
            directory.keys.remove(&draft)?;
            if named? {
                return Ok(file);
            }
        }
    }

    /// The key, where the name does not have it.
    pub(super) fn key_inside(&self) -> Option<String> {
        key_inside(&self.file)
    }

    pub(super) fn state(&self) -> Result<KeyState> {
        let stat = fstat(&self.file).map_err(|error| failed("look at the key's file", error))?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        Ok(KeyState { has_name: has_name(&stat), is_marked: size >= MARKED_SIZE })
    }

    /// When a claim was granted for the last time, by the clock on the wall, in microseconds since 1970.
    pub(super) fn last_use(&self) -> Result<u64> {
        let stat = fstat(&self.file).map_err(|error| failed("look at the key's file", error))?;
        Ok(super::folder::modified(&stat) / 1000)
    }

    /// Has everybody check for marks of void claims.
    pub(super) fn set_marked(&self) -> Result<()> {
        if self.state()?.is_marked {
            return Ok(());
        }
        // Takes no space.
        ftruncate(&self.file, MARKED_SIZE).map_err(|error| failed("mark the key's file", error))
    }

    pub(super) fn query(&self, sees: Sees, range: std::ops::Range<i64>) -> std::io::Result<Option<Found>> {
        locks::query(&self.file, sees, range)
    }

    /// Locks the byte of a new claim: that of `ticket`, or of a later one than all claims of this manager.
    pub(super) fn place(&self, ticket: u64, slot: u16, mode: Mode, wake: &Arc<Notify>) -> Result<Place> {
        let mut own = self.own.lock();
        let ticket = ticket.max(own.last_ticket + 1);
        let no_place = || BackendError::new(ErrorKind::Incompatible, "the key's file is locked by another program");
        let place = Place::new(ticket, slot).ok_or_else(no_place)?;
        if !locks::lock(&self.file, mode, place.byte()).map_err(|error| failed("lock the key's file", error))? {
            return Err(no_place());
        }
        own.last_ticket = ticket;
        own.claims.push(OwnPlace { place, mode, wake: wake.clone() });
        Ok(place)
    }

    /// Unlocks the byte of a claim. Returns the claims of this manager behind it.
    pub(super) fn unplace(&self, place: Place) -> Vec<OwnPlace> {
        let mut own = self.own.lock();
        own.claims.retain(|other| other.place != place);
        // It can only fail for a range that was never locked.
        let _ = locks::unlock(&self.file, place.byte());
        if own.claims.is_empty() {
            return Vec::new();
        }
        own.claims.iter().filter(|other| other.place > place).cloned().collect()
    }

    /// The nearest claim of this manager that excludes one of `mode` at `place`.
    pub(super) fn own_below(&self, place: Place, mode: Mode) -> Option<Place> {
        let own = self.own.lock();
        let blocking =
            |other: &&OwnPlace| other.place < place && (mode == Mode::Exclusive || other.mode == Mode::Exclusive);
        own.claims.iter().filter(blocking).map(|other| other.place).max()
    }

    /// Notes for show which claim was granted last, and its epoch.
    pub(super) fn show(&self, place: Place, epoch: u64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&place.byte().to_ne_bytes());
        bytes[8..].copy_from_slice(&epoch.to_ne_bytes());
        // On a full disk there is nothing to see.
        let _ = pwrite(&self.file, &bytes, 0);
    }

    /// The claim that was granted last, and its epoch.
    pub(super) fn shown(&self) -> Option<(Place, u64)> {
        let mut bytes = [0; 16];
        let length = pread(&self.file, &mut bytes, 0).ok()?;
        let number = |half: &[u8]| Some(u64::from_ne_bytes(half.try_into().ok()?));
        let (byte, epoch) = (number(&bytes[..8])?, number(&bytes[8..])?);
        (length == bytes.len() && byte != 0).then_some((Place::at(byte.cast_signed()), epoch))
    }

    /// Removes the name, if it is still that of this file. The caller holds the key.
    pub(super) fn remove(&self) -> Result<()> {
        let failed = |error| failed("remove the key's file", error);
        let named = self.directory.keys.stat(&self.name.file).map_err(failed)?;
        if named.is_some_and(|named| named.st_ino == self.inode) {
            self.directory.keys.remove(&self.name.file).map_err(failed)?;
        }
        Ok(())
    }
}

fn key_inside(file: &OwnedFd) -> Option<String> {
    let mut bytes = vec![0; MAX_KEY_BYTES];
    let length = pread(file, &mut bytes[..], KEY_OFFSET).ok()?;
    bytes.truncate(length);
    // A marked file ends with zeros.
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(length);
    bytes.truncate(end);
    String::from_utf8(bytes).ok()
}
