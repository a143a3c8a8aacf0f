//! Files below an open directory, none of which may be a symbolic link.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

/// An open directory, and the permissions of files in it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    file_mode: Mode,
}

impl Folder {
    /// The files in it are the group's where the directory is, and never readable only: who can read a file can lock it.
    pub(super) fn new(fd: OwnedFd) -> rustix::io::Result<Self> {
        let mode = fs::fstat(&fd)?.st_mode;
        Ok(Self { fd, file_mode: Mode::from_raw_mode(if mode & 0o020 == 0 { 0o600 } else { 0o660 }) })
    }

    /// Opens a folder within it, which is made if there is none.
    pub(super) fn folder(&self, name: &str) -> rustix::io::Result<Self> {
        let mode = self.file_mode.as_raw_mode();
        let mode = Mode::from_raw_mode(mode | ((mode & 0o440) >> 2));
        match fs::mkdirat(&self.fd, name, mode) {
            Ok(()) => fs::chmodat(&self.fd, name, mode | self.inherited()?, AtFlags::empty())?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        Self::new(self.open(name, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }

    /// The bit by which new files get the directory's group.
    fn inherited(&self) -> rustix::io::Result<Mode> {
        Ok(Mode::from_raw_mode(fs::fstat(&self.fd)?.st_mode) & Mode::SGID)
    }

    /// Opens a file that exists.
    pub(super) fn open(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        fs::openat(&self.fd, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
    }

    /// Opens a file for reading and writing, and makes it if there is none.
    pub(super) fn open_or_create(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        loop {
            match self.open(name, OFlags::RDWR) {
                Err(Errno::NOENT) => {}
                opened => return opened,
            }
            match self.create(name) {
                Err(Errno::EXIST) => {}
                created => return created,
            }
        }
    }

    /// Makes a new file.
    pub(super) fn create(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = fs::openat(&self.fd, name, flags, self.file_mode)?;
        self.permit(&file)?;
        Ok(file)
    }

    /// Makes a FIFO, and opens it.
    pub(super) fn create_fifo(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        fs::mkfifoat(&self.fd, name, self.file_mode)?;
        let fifo = self.open(name, flags | OFlags::NONBLOCK)?;
        self.permit(&fifo)?;
        Ok(fifo)
    }

    /// The mask of the process may have taken permissions of the group away.
    fn permit(&self, file: &OwnedFd) -> rustix::io::Result<()> {
        if self.file_mode.as_raw_mode() == 0o600 { Ok(()) } else { fs::fchmod(file, self.file_mode) }
    }

    /// The state of a file; `None` if there is none.
    pub(super) fn stat(&self, name: &str) -> rustix::io::Result<Option<Stat>> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a file. It is no error if there is none.
    pub(super) fn remove(&self, name: &str) -> rustix::io::Result<()> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Renames a file. False if there is none.
    pub(super) fn rename(&self, from: &str, to: &str) -> rustix::io::Result<bool> {
        match fs::renameat(&self.fd, from, &self.fd, to) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a file another name. False if that one exists.
    pub(super) fn link(&self, from: &str, to: &str) -> rustix::io::Result<bool> {
        match fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names of all files in it but folders. Those that are no text are none of ours. A file that is renamed meanwhile can be missing.
    pub(super) fn names(&self) -> rustix::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = CString::from(entry.file_name()).into_string();
            if entry.file_type() != FileType::Directory
                && let Ok(name) = name
            {
                names.push(name);
            }
            #[cfg(test)]
            super::gates::pass(super::gates::Gate::Listed);
        }
        Ok(names)
    }
}

/// Whether the file still has a name.
pub(super) fn has_name(stat: &Stat) -> bool {
    stat.st_nlink > 0
}

/// The time of a file's last change of content, in nanoseconds.
pub(super) fn modified(stat: &Stat) -> u64 {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec)
}

/// Sets that time.
pub(super) fn set_modified(file: &OwnedFd, nanos: u64) -> rustix::io::Result<()> {
    let time = |nanos: u64| Timespec {
        tv_sec: (nanos / 1_000_000_000).cast_signed(),
        tv_nsec: (nanos % 1_000_000_000).cast_signed(),
    };
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    fs::futimens(file, &Timestamps { last_access: omitted, last_modification: time(nanos) })
}

/// The permissions in a directory's state.
pub(super) fn permissions(stat: &Stat) -> RawMode {
    stat.st_mode & 0o7777
}
