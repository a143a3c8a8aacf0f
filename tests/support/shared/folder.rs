//! Temporary folders that do not outlive their test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A temporary folder, removed when this is dropped, and also when the test is killed or ends without dropping it, for example
/// in a `static`.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Removes it at the end of its input, which is that of this process if not before.
    remover: Child,
}

impl Folder {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// Makes one in memory, if there is room for a server's data: a disk that is busy with builds keeps a cluster from electing a
    /// leader for many seconds.
    pub fn in_memory() -> Self {
        const MEMORY: &str = "/dev/shm";
        let has_room = rustix::fs::statvfs(MEMORY).is_ok_and(|state| state.f_bavail * state.f_frsize > 1 << 30);
        if has_room { Self::within(Path::new(MEMORY)) } else { Self::new() }
    }

    fn within(parent: &Path) -> Self {
        let path = parent.join(format!("leasehold-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).unwrap();
        let mut command = Command::new("sh");
        // A server in it may live a moment longer than the test.
        command.args(["-c", "cat; sleep 1; rm -rf -- \"$0\""]).arg(&path);
        let remover = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { path, remover }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        let _ = self.remover.kill();
        let _ = self.remover.wait();
    }
}
