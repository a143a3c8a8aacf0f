//! The examination of a directory, for `leasehold doctor`: what the system says is gathered, and then judged.

use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat, StatVfsMountFlags, lstat, statfs, statvfs};
use rustix::io::Errno;
use rustix::process::{Resource, geteuid, getrlimit};
use tokio::sync::oneshot;

use super::folder::permissions;
use super::kernel;
use super::options::Options;
use crate::backend::examination::{Examined, PATIENCE};
use crate::finding::Findings;

/// How many descriptors a process should be permitted, and how many it has to be.
const ENOUGH: u64 = 1024;
const FEW: u64 = 64;

/// How little space and how few files are left when it is time to make room.
const SPACE: u64 = 16 * 1024 * 1024;
const FILES: u64 = 1000;

/// What the system has said.
#[derive(Clone, Debug, Default)]
struct Facts {
    directory: PathBuf,
    /// The directory, or the nearest one above it that exists.
    existing: PathBuf,
    /// Its owner, its permissions, and whether it is a directory and no link; `None` if that cannot be found out.
    state: Option<(u32, u32, FileType)>,
    /// Why not.
    failure: Option<Errno>,
    user: u32,
    /// The type of the file system.
    magic: Option<u64>,
    is_read_only: bool,
    /// The bytes and the files that are left for this user.
    left: Option<(u64, u64)>,
    /// How many descriptors a process may have, now and at the most; `None` is no limit.
    descriptors: (Option<u64>, Option<u64>),
    are_clocks_shifted: bool,
}

/// Examines the directory of the options.
pub(crate) async fn examine(options: Options) -> Examined {
    let (reply, answer) = oneshot::channel();
    let directory = options.directory.clone();
    // A file system whose server does not answer blocks a thread, maybe for ever.
    let gathering = move || drop(reply.send(gather(directory)));
    let started = std::thread::Builder::new().name("leasehold-doctor".into()).spawn(gathering);
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    let mut findings = Findings::of(options.directory.display().to_string());
    let facts = match (started, answer) {
        (Ok(_), Ok(Ok(facts))) => facts,
        _ => {
            let advice = "Choose a directory on a local file system: this one does not answer.";
            findings.wrong("directory", format!("no answer within {PATIENCE:?}"), advice);
            return Examined { findings: findings.into_list(), ..Examined::default() };
        }
    };
    judge(&facts, &mut findings);
    Examined { findings: findings.into_list(), is_reachable: true, demands: Vec::new() }
}

fn gather(directory: PathBuf) -> Facts {
    let mut facts = Facts { user: geteuid().as_raw(), ..Facts::default() };
    let existing = directory.ancestors().find(|path| !matches!(lstat(*path), Err(Errno::NOENT)));
    facts.existing = existing.unwrap_or(Path::new("/")).to_owned();
    match lstat(&facts.existing) {
        Ok(state) => facts.state = Some(described(&state)),
        Err(error) => facts.failure = Some(error),
    }
    facts.magic = statfs(&facts.existing).ok().and_then(|stat| u64::try_from(stat.f_type).ok());
    if let Ok(stat) = statvfs(&facts.existing) {
        facts.is_read_only = stat.f_flag.contains(StatVfsMountFlags::RDONLY);
        facts.left = Some((
            stat.f_bavail.saturating_mul(stat.f_frsize),
            if stat.f_files == 0 { u64::MAX } else { stat.f_favail },
        ));
    }
    let limit = getrlimit(Resource::Nofile);
    facts.descriptors = (limit.current, limit.maximum);
    facts.are_clocks_shifted = kernel::check_clocks().is_err();
    facts.directory = directory;
    facts
}

fn described(state: &Stat) -> (u32, u32, FileType) {
    (state.st_uid, permissions(state), FileType::from_raw_mode(state.st_mode))
}

fn judge(facts: &Facts, findings: &mut Findings) {
    directory(facts, findings);
    file_system(facts, findings);
    space(facts, findings);
    descriptors(facts, findings);
    if facts.are_clocks_shifted {
        let advice = "Run outside of a time namespace: leases would end at other times than for others.";
        findings.wrong("clocks", "shifted by a time namespace", advice);
    } else {
        findings.ok("clocks", "those of the machine");
    }
}

/// Who may change the locks.
fn directory(facts: &Facts, findings: &mut Findings) {
    let Some((owner, mode, kind)) = facts.state else {
        let why = facts.failure.map_or_else(|| "unknown".to_owned(), |error| error.to_string());
        let found = format!("{}: {why}", facts.existing.display());
        return findings.wrong(
            "directory",
            found,
            "Correct the path, or permit this user to search the directories above it.",
        );
    };
    if facts.existing != facts.directory {
        let found = format!("did not exist; {} does", facts.existing.display());
        return findings.ok("directory", found);
    }
    let found = format!("owner {owner}, mode {mode:04o}");
    if kind == FileType::Symlink {
        findings.wrong("directory", "a symbolic link", "Name the directory itself: links are not followed.");
    } else if kind != FileType::Directory {
        findings.wrong("directory", "no directory", "Name a directory, which may be a new one.");
    } else if owner != facts.user && owner != 0 {
        let advice = format!("Choose a directory of user {} or of root: its owner can change the locks.", facts.user);
        findings.wrong("directory", found, advice);
    } else if mode & 0o002 != 0 {
        findings.wrong("directory", found, "chmod 0700, or 0770 for a group: all users can change the locks.");
    } else {
        findings.ok("directory", found);
    }
}

fn file_system(facts: &Facts, findings: &mut Findings) {
    let Some(magic) = facts.magic else { return };
    let name = kernel::name(magic);
    if !kernel::is_local(magic) {
        let advice = format!("Choose a directory on one of {}: others do not exclude all processes.", kernel::locals());
        return findings.wrong("file system", format!("{name} ({magic:#x})"), advice);
    }
    match name {
        "overlay" => findings.note(
            "file system",
            name,
            "In a container use a volume: two overlay mounts of one directory do not exclude each other.",
        ),
        "tmpfs" => {
            findings.ok("file system", "tmpfs: tokens grow over a restart of the machine if its clock is not set back")
        }
        _ => findings.ok("file system", name),
    }
    if facts.is_read_only {
        findings.wrong("mount", "read-only", "Mount it for writing, or choose another directory.");
    }
}

fn space(facts: &Facts, findings: &mut Findings) {
    let is_local = facts.magic.is_some_and(kernel::is_local);
    let Some((bytes, files)) = facts.left.filter(|_| is_local) else { return };
    let found = match files {
        u64::MAX => format!("{} MiB left", bytes / (1024 * 1024)),
        _ => format!("{} MiB and {files} files left", bytes / (1024 * 1024)),
    };
    if bytes == 0 || files == 0 {
        findings.wrong("space", found, "Make room: a key that was not locked before cannot be locked.");
    } else if bytes < SPACE || files < FILES {
        findings.note("space", found, "Make room: without any, keys that were not locked before cannot be locked.");
    } else {
        findings.ok("space", found);
    }
}

fn descriptors(facts: &Facts, findings: &mut Findings) {
    let text = |limit: Option<u64>| limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    let (now, most) = facts.descriptors;
    let found = format!("{} here, at most {}", text(now), text(most));
    let advice = "Raise the limit of the programs with locks (ulimit -n, LimitNOFILE=): each key that is held or awaited needs one, and \
                  each other process two or three.";
    match now {
        Some(limit) if limit < FEW => findings.wrong("descriptors", found, advice),
        Some(limit) if limit < ENOUGH => findings.note("descriptors", found, advice),
        _ => findings.ok("descriptors", found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    fn sound() -> Facts {
        Facts {
            directory: "/run/locks".into(),
            existing: "/run/locks".into(),
            state: Some((1000, 0o700, FileType::Directory)),
            user: 1000,
            magic: Some(0xEF53),
            left: Some((1 << 30, 100_000)),
            descriptors: (Some(1024), Some(1 << 20)),
            ..Facts::default()
        }
    }

    fn found(facts: &Facts) -> Vec<(&'static str, Level)> {
        let mut findings = Findings::of("x");
        judge(facts, &mut findings);
        findings.faults().iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn each_fault_of_a_directory_is_found_and_nothing_else() {
        assert_eq!(found(&sound()), []);
        let owner = |owner, mode, kind| Facts { state: Some((owner, mode, kind)), ..sound() };
        let left = |bytes, files| Facts { left: Some((bytes, files)), ..sound() };
        let limit = |limit| Facts { descriptors: (limit, None), ..sound() };
        let magic = |magic| Facts { magic: Some(magic), ..sound() };
        for (facts, check, level) in [
            (owner(1001, 0o700, FileType::Directory), "directory", Level::Wrong),
            (owner(1000, 0o777, FileType::Directory), "directory", Level::Wrong),
            (owner(1000, 0o777, FileType::Symlink), "directory", Level::Wrong),
            (owner(1000, 0o600, FileType::RegularFile), "directory", Level::Wrong),
            (Facts { state: None, failure: Some(Errno::ACCESS), ..sound() }, "directory", Level::Wrong),
            (magic(0x6969), "file system", Level::Wrong),
            (magic(0x6265_6572), "file system", Level::Wrong),
            (magic(0x794C_7630), "file system", Level::Note),
            (Facts { is_read_only: true, ..sound() }, "mount", Level::Wrong),
            (left(0, 100_000), "space", Level::Wrong),
            (left(1 << 20, 100_000), "space", Level::Note),
            (left(1 << 30, 10), "space", Level::Note),
            (limit(Some(32)), "descriptors", Level::Wrong),
            (limit(Some(256)), "descriptors", Level::Note),
            (Facts { are_clocks_shifted: true, ..sound() }, "clocks", Level::Wrong),
        ] {
            assert_eq!(found(&facts), [(check, level)], "{facts:?}");
        }
        for facts in [
            owner(0, 0o700, FileType::Directory),
            owner(1000, 0o770, FileType::Directory),
            owner(1000, 0o755, FileType::Directory),
            magic(0x0102_1994),
            left(1 << 30, u64::MAX),
            limit(None),
            Facts { directory: "/run/locks/new".into(), ..sound() },
        ] {
            assert_eq!(found(&facts), [], "{facts:?}");
        }
    }
}
