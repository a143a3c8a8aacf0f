//! The conformance suite, on directories: two managers with separate openings, which contend like two processes.

use leasehold::LockManager;

async fn pair_in(directory: &str) -> (LockManager, LockManager) {
    let url = format!("file://{directory}/leasehold-conformance-{}", std::process::id());
    let connect = async |name: &str| LockManager::builder().url(&url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

/// In memory.
mod tmpfs {
    async fn pair() -> (leasehold::LockManager, leasehold::LockManager) {
        super::pair_in("/dev/shm").await
    }

    leasehold::conformance_tests!(pair);
}

/// On a disk, if the folder for temporary files is on one.
mod disk {
    async fn pair() -> (leasehold::LockManager, leasehold::LockManager) {
        super::pair_in(std::env::temp_dir().to_str().unwrap()).await
    }

    leasehold::conformance_tests!(pair);
}
