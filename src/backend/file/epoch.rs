//! The base of epochs, agreed on once in each run of the system.

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use rustix::fs::fstat;
use rustix::io::{pread, write};

use super::error::failed;
use super::folder::{Folder, has_name, modified, set_modified};
use super::ticket::micros;
use crate::backend::{BackendError, ErrorKind, Result};

const PREFIX: &str = "base.";

/// How much later than its last [touch](Epochs::touch) a base may have been used.
pub(super) const TOUCHED_WITHIN: u64 = 30_000_000;

/// Epochs: microseconds that grow, also from one run of the system to the next, and whatever is done to the clock within one.
#[derive(Debug)]
pub(super) struct Epochs {
    base: u64,
    file: OwnedFd,
}

impl Epochs {
    /// Reads the base of this run, or chooses one and gives it its name, which works once.
    pub(super) fn open(folder: &Folder, boot_id: &str) -> Result<Self> {
        let name = format!("{PREFIX}{boot_id}");
        let failed = |error| failed("agree on the base of tokens", error);
        if let Some(known) = Self::read(folder, &name)? {
            return Ok(known);
        }
        let mut older = Vec::new();
        for other in folder.names().map_err(failed)? {
            if other.starts_with(PREFIX) && other != name {
                older.push((folder.stat(&other).map_err(failed)?.map_or(0, |stat| modified(&stat) / 1000), other));
            }
        }
        let start = since_1970().saturating_sub(micros());
        let base = first_base(start, older.iter().map(|(touched, _)| *touched));
        let draft = format!(".{name}.{:016x}", rand::random::<u64>());
        let file = folder.create(&draft).map_err(failed)?;
        let written = write(&file, base.to_string().as_bytes());
        let touched = set_modified(&file, (base + micros()) * 1000);
        let named = written.and(touched).and_then(|()| folder.link(&draft, &name));
        folder.remove(&draft).map_err(failed)?;
        named.map_err(failed)?;
        for (_, other) in older {
            folder.remove(&other).map_err(failed)?;
        }
        let missing = || BackendError::new(ErrorKind::Unreachable, "the base of tokens was removed");
        Self::read(folder, &name)?.ok_or_else(missing)
    }

    fn read(folder: &Folder, name: &str) -> Result<Option<Self>> {
        let failed = |error| failed("read the base of tokens", error);
        if folder.stat(name).map_err(failed)?.is_none() {
            return Ok(None);
        }
        let file = folder.open(name, rustix::fs::OFlags::RDWR).map_err(failed)?;
        let mut text = [0; 32];
        let length = pread(&file, &mut text, 0).map_err(failed)?;
        let text = std::str::from_utf8(&text[..length]).ok().and_then(|text| text.parse().ok());
        let base = text.filter(|base| *base < 1 << 53);
        let base = base.ok_or_else(|| BackendError::new(ErrorKind::Incompatible, "the base of tokens is no number"))?;
        Ok(Some(Self { base, file }))
    }

    /// Whether new managers find this base.
    pub(super) fn has_name(&self) -> bool {
        fstat(&self.file).is_ok_and(|own| has_name(&own))
    }

    /// The epoch of a time since the start of the system, in microseconds.
    pub(super) fn at(&self, micros: u64) -> u64 {
        self.base + micros
    }

    /// The time of an epoch, if it is of this run of the system.
    pub(super) fn time(&self, epoch: u64) -> Option<u64> {
        epoch.checked_sub(self.base)
    }

    /// Notes that epochs of this base are still used, for the next run of the system.
    pub(super) fn touch(&self) {
        // Another user's file cannot be touched; then that user does it.
        let _ = set_modified(&self.file, self.at(micros()) * 1000);
    }
}

/// The base of a new run of the system, which began at `start`: above what the older ones were used for.
fn first_base(start: u64, older: impl Iterator<Item = u64>) -> u64 {
    older.map(|touched| touched + TOUCHED_WITHIN).max().unwrap_or(0).max(start)
}

/// The time by the clock on the wall, in microseconds since 1970.
pub(super) fn since_1970() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_begins_above_the_last_one() {
        let hour = 3_600_000_000;
        assert_eq!(first_base(5 * hour, [].into_iter()), 5 * hour);
        assert_eq!(first_base(5 * hour, [3 * hour, 4 * hour].into_iter()), 5 * hour, "the clock went on");
        assert_eq!(
            first_base(2 * hour, [3 * hour, 4 * hour].into_iter()),
            4 * hour + TOUCHED_WITHIN,
            "it was set back"
        );
    }

    #[test]
    fn all_processes_of_one_run_have_one_base_and_the_next_run_a_greater_one() {
        let scratch = super::super::scratch::Scratch::new();
        let folder = &scratch.folder();
        let first = Epochs::open(folder, "first").unwrap();
        assert_eq!(Epochs::open(folder, "first").unwrap().base, first.base);
        // Its clock is a day ahead at the end.
        let end = (first.at(micros()) + 86_400_000_000) * 1000;
        set_modified(&first.file, end).unwrap();
        let second = Epochs::open(folder, "second").unwrap();
        assert!(second.base > end / 1000);
        assert_eq!(folder.names().unwrap(), ["base.second"]);
    }
}
