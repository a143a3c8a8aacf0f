//! Noticing `fork()`, after which a child has the parent's memory but none of its threads.

/// Detects whether this process is a fork of the one that created this value.
///
/// Reads a counter that a `pthread_atfork` handler increments: one load, where `getpid` is a system call of 40 to 200 ns, more than
/// all the rest of a lock in memory.
#[derive(Debug)]
pub(crate) struct ForkDetector(forkguard::Guard);

impl ForkDetector {
    pub(crate) fn new() -> Self {
        Self(forkguard::new())
    }

    pub(crate) fn is_forked(&self) -> bool {
        // A copy, because the original detects a fork only once.
        self.0.clone().detected_fork()
    }
}
