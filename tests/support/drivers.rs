//! The functions of the fuzz targets. Plain tests call them as well, so that they stay correct.

#[cfg(feature = "etcd")]
#[path = "drivers/answers.rs"]
pub mod answers;
#[path = "drivers/calls.rs"]
pub mod calls;
#[cfg(feature = "etcd")]
#[path = "drivers/names.rs"]
pub mod names;
#[cfg(feature = "redis")]
#[path = "drivers/replies.rs"]
pub mod replies;

use leasehold::LockManager;

use super::broken::{Broken, Defect};

/// Any text is refused or accepted as a URL, without a panic, and without showing a password.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    check(&text, None);
    // The same with a user and a password in the right place, whatever the rest.
    let (scheme, rest) = text.split_once("://").unwrap_or(("etcd", &text));
    let password = "correct-horse";
    check(&format!("{scheme}://user:{password}@{rest}"), Some(password));
    check(&format!("{scheme}://user:{password}/?#%@{rest}"), Some(password));
}

fn check(url: &str, password: Option<&str>) {
    // With a given backend, no connection is made, whatever the URL.
    let built = LockManager::builder().url(url).backend(Broken::new(Defect::None)).build();
    if let Err(error) = futures::executor::block_on(built) {
        assert!(["INVALID_CONFIG", "UNSUPPORTED"].contains(&error.code()), "{url:?}: {error}");
        let shown = format!("{error} {error:?}");
        assert!(password.is_none_or(|password| !shown.contains(password)), "{url:?}: {shown}");
    }
}
