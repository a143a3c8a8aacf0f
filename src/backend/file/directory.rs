//! The directory of all locks: its opening, and what it must be like.

use std::fs::{DirBuilder, create_dir_all};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags, Stat, fchmod, flock, fstat, open, stat};
use rustix::io::Errno;

use super::epoch::Epochs;
use super::error::failed;
use super::folder::{Folder, has_name, permissions};
use super::kernel;
use super::locks;
use super::ticket::SLOTS;
use crate::backend::{BackendError, ErrorKind, Result};
use crate::info::Mode as LockMode;

/// The byte of the file of slots that a sweep locks, beyond those of the slots.
pub(super) const SWEEP_BYTE: i64 = 1 << 40;

/// One opening of the directory, by one manager.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    state: (u64, u64),
    pub(super) root: Folder,
    pub(super) keys: Folder,
    pub(super) leases: Folder,
    pub(super) mailboxes: Folder,
    /// What voids single claims.
    pub(super) marks: Folder,
    pub(super) epochs: Epochs,
    pub(super) slots: OwnedFd,
    /// Those of this manager. The kernel's locks do not tell them from free ones within one description.
    own_slots: Mutex<Vec<u16>>,
    /// Whether its files are in memory: nothing waits for a disk.
    pub(super) is_in_memory: bool,
}

impl Directory {
    /// Opens the directory, which is made if there is none.
    pub(super) fn open(path: &Path, mode: Option<u32>) -> Result<Self> {
        kernel::check_clocks()?;
        let root = open_root(path, mode)?;
        let what = |error: Errno| failed(&format!("use the directory {}", path.display()), error);
        let state = fstat(&root).map_err(what)?;
        check(path, &state, rustix::process::geteuid().as_raw())?;
        let is_in_memory = kernel::check_file_system(&root, path)?;
        // systemd-tmpfiles leaves directories alone that are locked in this way. Anyone who can read it can prevent that.
        let _ = flock(&root, FlockOperation::NonBlockingLockShared);
        let root = Folder::new(root).map_err(what)?;
        let [keys, leases, mailboxes, marks] = ["k", "l", "m", "v"].map(|name| root.folder(name).map_err(what));
        Ok(Self {
            path: path.to_owned(),
            state: identity(&state),
            epochs: Epochs::open(&root, &kernel::boot_id()?)?,
            slots: root.open_or_create("slots").map_err(what)?,
            root,
            keys: keys?,
            leases: leases?,
            mailboxes: mailboxes?,
            marks: marks?,
            own_slots: Mutex::default(),
            is_in_memory,
        })
    }

    /// Whether its path still names this directory, and the directory what was opened in it.
    pub(super) fn is_current(&self) -> bool {
        let folders = [&self.root, &self.keys, &self.leases, &self.mailboxes, &self.marks].map(|folder| &folder.fd);
        let is_named = |fd: &OwnedFd| fstat(fd).is_ok_and(|own| has_name(&own));
        folders.into_iter().chain([&self.slots]).all(is_named)
            && self.epochs.has_name()
            && match stat(&self.path) {
                Ok(named) => identity(&named) == self.state,
                // What cannot be asked for is no other directory.
                Err(error) => ![Errno::NOENT, Errno::NOTDIR].contains(&error),
            }
    }

    /// Takes a free slot.
    pub(super) fn take_slot(&self) -> Result<u16> {
        let mut own = self.own_slots.lock();
        let first = rand::random::<u16>() % SLOTS;
        for slot in (first..SLOTS).chain(0..first) {
            if own.contains(&slot) {
                continue;
            }
            let taken = locks::lock(&self.slots, LockMode::Exclusive, slot.into());
            if taken.map_err(|error| failed("take a slot for a lease", error))? {
                own.push(slot);
                return Ok(slot);
            }
        }
        Err(BackendError::new(ErrorKind::Refused, format!("all {SLOTS} leases of the directory are in use")))
    }

    /// Takes a certain slot, if it is free.
    pub(super) fn take_this_slot(&self, slot: u16) -> bool {
        let mut own = self.own_slots.lock();
        let is_taken =
            !own.contains(&slot) && locks::lock(&self.slots, LockMode::Exclusive, slot.into()).unwrap_or(false);
        if is_taken {
            own.push(slot);
        }
        is_taken
    }

    pub(super) fn free_slot(&self, slot: u16) {
        let mut own = self.own_slots.lock();
        own.retain(|other| *other != slot);
        // The end of the process would free it as well.
        let _ = locks::unlock(&self.slots, slot.into());
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn open_root(path: &Path, mode: Option<u32>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let what = || format!("open the directory {}", path.display());
    loop {
        match open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {}
            Ok(root) => return Ok(root),
            Err(error) => return Err(failed(&what(), error)),
        }
        let what = || format!("make the directory {}", path.display());
        if let Some(parent) = path.parent() {
            create_dir_all(parent).map_err(|error| failed(&what(), error))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(failed(&what(), error)),
        }
        let Some(mode) = mode else { continue };
        let made = open(path, flags, Mode::empty()).map_err(|error| failed(&what(), error))?;
        // After the fact, because the mask of the process would take permissions away. With the group's, its files are the group's.
        let of_group = if mode & 0o070 == 0 { 0 } else { 0o2000 };
        fchmod(&made, Mode::from_raw_mode(mode | of_group)).map_err(|error| failed(&what(), error))?;
    }
}

/// Checks who else could change the locks.
fn check(path: &Path, state: &Stat, user: u32) -> Result<()> {
    let refuse = |reason: String| {
        let text = format!("the directory {} {reason}", path.display());
        Err(BackendError::new(ErrorKind::Denied, text))
    };
    let mode = permissions(state);
    if state.st_uid != user && state.st_uid != 0 {
        return refuse(format!("belongs to another user ({})", state.st_uid));
    }
    if mode & 0o002 != 0 {
        return refuse(format!("is writable for all users (mode {mode:04o}); expected 0700, or 0770 for a group"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::super::scratch::Scratch;
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_new_directory_is_private_unless_a_mode_says_otherwise() {
        let scratch = Scratch::new();
        let private = scratch.path().join("a/b/private");
        let directory = Directory::open(&private, None).unwrap();
        assert_eq!((mode_of(&private), mode_of(&private.join("k"))), (0o700, 0o700));
        assert_eq!(mode_of(&private.join("slots")), 0o600);
        assert!(directory.is_current());
        let common = scratch.path().join("common");
        Directory::open(&common, Some(0o770)).unwrap();
        assert_eq!((mode_of(&common), mode_of(&common.join("l"))), (0o2770, 0o2770));
        assert_eq!(mode_of(&common.join("slots")), 0o660);
        Directory::open(&common, None).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_change_is_refused() {
        let scratch = Scratch::new();
        for mode in [0o777, 0o702, 0o1777] {
            std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(mode)).unwrap();
            let error = Directory::open(scratch.path(), None).unwrap_err();
            assert!(error.kind() == ErrorKind::Denied && error.to_string().contains("all users"), "{error}");
        }
        // As systemd makes them; the files in it are private.
        std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Directory::open(scratch.path(), None).unwrap();
        assert_eq!((mode_of(&scratch.path().join("k")), mode_of(&scratch.path().join("slots"))), (0o700, 0o600));
        let state = fstat(&scratch.folder().fd).unwrap();
        check(scratch.path(), &state, state.st_uid).unwrap();
        if state.st_uid != 0 {
            let error = check(scratch.path(), &state, state.st_uid + 1).unwrap_err();
            assert!(error.to_string().contains("another user"), "{error}");
        }
        let mut foreign = state;
        foreign.st_uid = 4711;
        let error = check(scratch.path(), &foreign, 1).unwrap_err();
        assert!(error.to_string().ends_with("belongs to another user (4711)"), "{error}");
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let scratch = Scratch::new();
        let (real, link) = (scratch.path().join("real"), scratch.path().join("link"));
        Directory::open(&real, None).unwrap();
        symlink(&real, &link).unwrap();
        assert_eq!(Directory::open(&link, None).unwrap_err().kind(), ErrorKind::Incompatible);
        let directory = Directory::open(&real, None).unwrap();
        symlink("/etc/passwd", real.join("k/stolen")).unwrap();
        assert_eq!(directory.keys.open_or_create("stolen").unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn a_removed_or_replaced_directory_is_noticed() {
        let scratch = Scratch::new();
        let path = scratch.path().join("d");
        let directory = Directory::open(&path, None).unwrap();
        std::fs::rename(&path, scratch.path().join("moved")).unwrap();
        assert!(!directory.is_current());
        let other = Directory::open(&path, None).unwrap();
        assert!(other.is_current() && !directory.is_current());
        std::fs::remove_dir_all(&path).unwrap();
        assert!(!other.is_current());
    }

    #[test]
    fn a_directory_that_was_emptied_is_noticed() {
        let scratch = Scratch::new();
        let base = format!("base.{}", kernel::boot_id().unwrap());
        for name in ["k", "l", "m", "v", "slots", &base] {
            let directory = Directory::open(scratch.path(), None).unwrap();
            assert!(directory.is_current());
            let part = scratch.path().join(name);
            if part.is_dir() {
                std::fs::remove_dir(part).unwrap()
            } else {
                std::fs::remove_file(part).unwrap()
            }
            assert!(!directory.is_current(), "{name}");
        }
    }

    #[test]
    fn slots_are_taken_once() {
        let scratch = Scratch::new();
        let open = || Directory::open(scratch.path(), None).unwrap();
        let (one, other) = (open(), open());
        let slot = one.take_slot().unwrap();
        assert!(!one.take_this_slot(slot) && !other.take_this_slot(slot));
        one.free_slot(slot);
        assert!(other.take_this_slot(slot) && !one.take_this_slot(slot));
    }
}
