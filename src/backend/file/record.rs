//! What a lease says of itself, for the others.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{pread, write};
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::info::Holder;

/// The longest description that is read.
const MAX_BYTES: usize = 16 * 1024;

/// The TTL of a lease whose description cannot be read: the longest one.
const UNKNOWN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The version of the layout.
pub(super) const VERSION: u32 = 1;

/// In its place, in the description of a sweep.
pub(super) const SWEEP: u32 = u32::MAX;

/// The description of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) name: String,
    pub(super) host: String,
    pub(super) pid: u32,
    pub(super) pid_namespace: String,
    pub(super) ttl_ms: u64,
    /// The name of the mailbox of its manager.
    pub(super) mailbox: String,
}

impl Record {
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms).min(UNKNOWN_TTL)
    }

    /// Whether the lease is that of a sweep, which holds a key for some microseconds.
    pub(super) fn is_sweep(&self) -> bool {
        self.version == SWEEP
    }

    pub(super) fn holder(&self) -> Holder {
        Holder::new(&*self.name, &*self.host, self.pid)
    }

    pub(super) fn write(&self, folder: &Folder, name: &str) -> rustix::io::Result<()> {
        // Plain numbers and texts can be written as JSON.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let file = folder.create(name)?;
        write(&file, &text).map(drop)
    }

    /// Reads a description. What cannot be read describes a holder that lives as long as its process.
    pub(super) fn read(folder: &Folder, name: &str) -> Self {
        let file = folder.open(name, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK);
        let known = file.ok().and_then(|file: OwnedFd| {
            let mut text = vec![0; MAX_BYTES];
            let length = pread(&file, &mut text, 0).ok()?;
            serde_json::from_slice::<Self>(&text[..length]).ok()
        });
        known.unwrap_or_else(|| Self {
            version: 0,
            name: String::new(),
            host: String::new(),
            pid: 0,
            pid_namespace: String::new(),
            ttl_ms: u64::try_from(UNKNOWN_TTL.as_millis()).unwrap_or(u64::MAX),
            mailbox: String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_else_lives_for_a_day() {
        let scratch = super::super::scratch::Scratch::new();
        let folder = scratch.folder();
        let record = Record {
            version: 1,
            name: "a \"name\"".into(),
            host: "h".into(),
            pid: 7,
            pid_namespace: "pid:[1]".into(),
            ttl_ms: 1500,
            mailbox: "ab".into(),
        };
        record.write(&folder, "good").unwrap();
        assert_eq!(Record::read(&folder, "good"), record);
        std::fs::write(scratch.path().join("bad"), b"{\"version\": \xff").unwrap();
        for name in ["bad", "missing"] {
            let unknown = Record::read(&folder, name);
            assert_eq!((unknown.ttl(), &*unknown.mailbox), (UNKNOWN_TTL, ""));
        }
        let forever = Record { ttl_ms: u64::MAX, ..record };
        assert_eq!(forever.ttl(), UNKNOWN_TTL);
    }
}
