//! Temporary folders that do not outlive their test.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A temporary folder, removed when this is dropped, and also when the test is killed or ends without dropping it, as it does with
/// what is in a `static`.
#[derive(Debug)]
pub struct Folder {
    folder: TempDir,
    /// Waits for the end of our end of its input.
    _remover: Remover,
}

#[derive(Debug)]
struct Remover(Child);

impl Folder {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    /// Makes one in memory, if there is room for what a server wants: a disk that is busy with builds keeps a cluster from electing a
    /// leader for many seconds.
    pub fn in_memory() -> Self {
        const MEMORY: &str = "/dev/shm";
        let has_room = rustix::fs::statvfs(MEMORY).is_ok_and(|state| state.f_bavail * state.f_frsize > 1 << 30);
        if has_room && let Ok(folder) = tempfile::tempdir_in(MEMORY) { Self::within(folder) } else { Self::new() }
    }

    fn within(folder: TempDir) -> Self {
        let mut command = Command::new("sh");
        // A server in it may live a moment longer than the test.
        command.args(["-c", "cat; sleep 1; rm -rf -- \"$0\""]).arg(folder.path());
        let remover = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { folder, _remover: Remover(remover) }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        // The folder is gone by the time, or will be: nothing is left to do for it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
