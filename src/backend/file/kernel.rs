//! What the kernel must be like: a local file system, no time namespace.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::fstatfs;

use super::error::failed;
use crate::backend::{BackendError, ErrorKind, Result};

/// The file systems on which locks, FIFOs and times are those of one kernel.
const LOCAL: &[(u64, &str)] = &[
    (0xEF53, "ext"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0xF2F5_2010, "f2fs"),
    (0x2FC1_2FC1, "zfs"),
    (TMPFS, "tmpfs"),
    (0x794C_7630, "overlay"),
];
const TMPFS: u64 = 0x0102_1994;

/// The names of some others, for an error.
const OTHERS: &[(u64, &str)] = &[
    (0x6969, "nfs"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x5175, "smb"),
    (0x00C3_6400, "ceph"),
    (0x4D44, "vfat"),
    (0x2011_BAB0, "exfat"),
    (0x8584_58F6, "ramfs"),
    (0x9FA0, "proc"),
    (0x6265_6572, "sysfs"),
];

/// Checks that a directory's file system is a local one. Returns whether it is in memory.
pub(super) fn check_file_system(directory: &OwnedFd, path: &Path) -> Result<bool> {
    let stat = fstatfs(directory).map_err(|error| failed("look at the file system of the directory", error))?;
    let magic = u64::try_from(stat.f_type).unwrap_or_default();
    refused(magic, path).map_or(Ok(magic == TMPFS), Err)
}

/// The error for a file system that is not on the list.
fn refused(magic: u64, path: &Path) -> Option<BackendError> {
    if is_local(magic) {
        return None;
    }
    let (name, locals) = (name(magic), locals());
    Some(BackendError::new(
        ErrorKind::Unsupported,
        format!("file: {} is on a file system of type {name} ({magic:#x}); expected one of {locals}", path.display()),
    ))
}

/// Whether the file system is on the list.
pub(super) fn is_local(magic: u64) -> bool {
    LOCAL.iter().any(|(known, _)| *known == magic)
}

/// The name of a file system.
pub(super) fn name(magic: u64) -> &'static str {
    LOCAL.iter().chain(OTHERS).find(|(known, _)| *known == magic).map_or("unknown", |(_, name)| name)
}

/// The names of the file systems on the list.
pub(super) fn locals() -> String {
    LOCAL.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// Checks that this process has the clocks of the others.
pub(super) fn check_clocks() -> Result<()> {
    // Kernels without time namespaces have no such file.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    if is_shifted(&offsets) {
        let reason = "file: the clocks of this process are shifted by a time namespace";
        return Err(BackendError::new(ErrorKind::Unsupported, reason));
    }
    Ok(())
}

fn is_shifted(offsets: &str) -> bool {
    offsets.lines().any(|line| line.split_whitespace().skip(1).any(|number| number != "0"))
}

/// The pid namespace of this process; empty where that is not known.
pub(super) fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The id of this run of the system.
pub(super) fn boot_id() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let id = id.map_err(|error| failed("read the boot id", error))?;
    Ok(id.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_file_systems_are_refused_by_name() {
        for (magic, _) in LOCAL {
            assert!(refused(*magic, Path::new("/x")).is_none());
        }
        let error = refused(0x6969, Path::new("/home/locks")).unwrap();
        let text = "file: /home/locks is on a file system of type nfs (0x6969); expected one of ext, xfs";
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().starts_with(text), "{error}");
        assert!(refused(0x1234, Path::new("/x")).unwrap().to_string().contains("unknown (0x1234)"));
    }

    #[test]
    fn shifted_clocks_are_noticed() {
        assert!(!is_shifted(""));
        assert!(!is_shifted("monotonic           0         0\nboottime            0         0\n"));
        assert!(is_shifted("monotonic           0         0\nboottime       86400         0\n"));
        assert!(is_shifted("monotonic          -5         0\nboottime           0         0\n"));
    }

    #[test]
    fn the_boot_has_an_id() {
        assert!(boot_id().unwrap().len() >= 32 && pid_namespace().starts_with("pid:["));
    }
}
