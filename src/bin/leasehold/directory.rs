//! The directory of the locks where no server is named.

/// Returns the URL of the directory of this account: the same for its cron jobs, shells and services, whatever their environment.
#[cfg(all(feature = "file", target_os = "linux"))]
pub(crate) fn url() -> Option<String> {
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return Some("file:///run/leasehold".into());
    }
    let home = nix::unistd::User::from_uid(user).ok().flatten()?.dir;
    let directory = home.join(".local/state/leasehold");
    // Whatever a URL does not permit is encoded.
    let encoded = |c: char| if c.is_ascii_alphanumeric() || "/-_.".contains(c) { c.to_string() } else { escaped(c) };
    Some(format!("file://{}", directory.to_str()?.chars().map(encoded).collect::<String>()))
}

#[cfg(all(feature = "file", target_os = "linux"))]
fn escaped(c: char) -> String {
    let mut bytes = [0; 4];
    c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// None, without the feature `file`.
#[cfg(not(all(feature = "file", target_os = "linux")))]
pub(crate) fn url() -> Option<String> {
    None
}
