//! The processes that descend from this one.

use std::collections::{HashMap, HashSet};

use rustix::process::{Pid, getpid};

/// A process that runs, or is stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) group: Option<Pid>,
}

/// Makes this process the parent of descendants whose own parent has ended, so that they stay descendants.
pub(crate) fn adopt_orphans() {
    // Otherwise a process in a separate session that outlives its parent would not be found.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(getpid()));
}

/// Lists the living descendants of this process, without the children in `except` and theirs. Empty where there is no Linux /proc.
pub(crate) fn descendants(except: &HashSet<Pid>) -> Vec<Process> {
    let mut children = HashMap::<Pid, Vec<Entry>>::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().map_while(Result::ok) {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(entry) = pid.and_then(Entry::read) {
            children.entry(entry.parent).or_default().push(entry);
        }
    }
    let (mut found, mut parents) = (Vec::new(), vec![getpid()]);
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if except.contains(&child.process.pid) {
                continue;
            }
            parents.push(child.process.pid);
            if child.lives {
                found.push(child.process);
            }
        }
    }
    found
}

struct Entry {
    process: Process,
    parent: Pid,
    lives: bool,
}

impl Entry {
    /// Reads /proc/PID/stat, see proc(5).
    fn read(pid: Pid) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The fields from the third on follow the name, which is in parentheses and may contain some.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let id = |index: usize| fields.get(index)?.parse().ok().and_then(Pid::from_raw);
        let threads: u32 = fields.get(17)?.parse().ok()?;
        // A process whose first thread has ended is shown as a zombie while its other threads work.
        let lives = !matches!(*fields.first()?, "Z" | "X") || threads > 1;
        Some(Self { process: Process { pid, group: id(2) }, parent: id(1)?, lives })
    }
}
