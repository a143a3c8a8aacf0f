//! The checks of all options, whichever way they were set.

use std::path::Path;
use std::time::Duration;

use super::options::{Bound, OPTIONS, Place};
use super::{BackendKind, Settings};
use crate::error::{LockError, Result};

/// Checks all options, from whichever source, except the minimum of the TTL, which the backend determines: see [`check_ttl`].
///
/// `backend` is the one in use, which may be that of a client that was passed to the builder.
///
/// # Errors
///
/// `InvalidConfig` that names the option.
pub(crate) fn validate(settings: &Settings, backend: BackendKind) -> Result<()> {
    for option in OPTIONS {
        if option.is_set(settings) {
            option.check_backend(if option.place == Place::Address { settings.backend } else { backend })?;
        }
        option.check(settings)?;
    }
    check_address(settings)?;
    check_sentinels(settings)?;
    check_prefix(backend, settings.prefix(backend), settings.signal_lists)?;
    check_credentials(settings)?;
    check_tls(settings)
}

fn check_address(settings: &Settings) -> Result<()> {
    let (endpoints, unix) = (settings.endpoints.len(), settings.unix_path.is_some());
    let (fits, expected) = match settings.backend {
        BackendKind::Memory => (endpoints == 0, "no host"),
        BackendKind::File => (endpoints == 0, "no host"),
        BackendKind::Etcd => (endpoints > 0, "at least one host"),
        BackendKind::Redis if settings.cluster => (endpoints > 0 && !unix, "at least one host of the cluster"),
        BackendKind::Redis if settings.master.is_some() => (endpoints > 0 && !unix, "at least one host of a sentinel"),
        BackendKind::Redis => (endpoints + usize::from(unix) == 1, "exactly one host or socket"),
    };
    if !fits {
        return Err(LockError::config(format!("{}: expects {expected}", settings.backend.word())));
    }
    if settings.backend == BackendKind::File && !settings.directory.as_deref().is_some_and(Path::is_absolute) {
        return Err(LockError::config("directory: expects an absolute path, as in file:///run/leasehold"));
    }
    if settings.cluster && settings.database.is_some_and(|database| database > 0) {
        return Err(LockError::config("database: a cluster has database 0 only"));
    }
    // The list of a lock is in another slot.
    if settings.cluster && settings.signal_lists {
        return Err(LockError::config("signal_lists: not supported on a cluster"));
    }
    Ok(())
}

fn check_sentinels(settings: &Settings) -> Result<()> {
    let (user, password) = (settings.sentinel_username.is_some(), settings.sentinel_password.is_some());
    let wrong = |reason: &str| Err(LockError::config(reason));
    match &settings.master {
        Some(_) if settings.cluster => wrong("master: a cluster has no sentinels"),
        None if user => wrong("sentinel_username: requires the name of a master that sentinels watch"),
        None if password => wrong("sentinel_password: requires the name of a master that sentinels watch"),
        _ if user && !password => wrong("sentinel_password: required with sentinel_username"),
        _ => Ok(()),
    }
}

fn check_credentials(settings: &Settings) -> Result<()> {
    let (user, password, file) =
        (settings.username.is_some(), settings.password.is_some(), settings.password_file.is_some());
    let wrong = |reason: &str| Err(LockError::config(reason));
    if settings.credentials.is_some() {
        return match settings.backend {
            BackendKind::Memory => wrong("credentials_from: not supported by memory"),
            BackendKind::File => wrong("credentials_from: not supported by file"),
            _ if user || password || file => {
                wrong("credentials_from: cannot be combined with username, password or password_file")
            }
            _ => Ok(()),
        };
    }
    match settings.backend {
        _ if password && file => wrong("password_file: cannot be combined with password"),
        _ if user && !password && !file => wrong("password: required with a username"),
        BackendKind::Etcd if !user && (password || file) => wrong("username: required with a password"),
        _ => Ok(()),
    }
}

fn check_tls(settings: &Settings) -> Result<()> {
    if settings.tls
        && (settings.unix_path.is_some() || [BackendKind::Memory, BackendKind::File].contains(&settings.backend))
    {
        return Err(LockError::config("tls: requires a network connection"));
    }
    for (option, file) in [("ca", &settings.ca), ("cert", &settings.cert), ("key", &settings.key)] {
        if file.is_some() && !settings.tls {
            return Err(LockError::config(format!(
                "{option}: requires TLS (etcds://, rediss://, rediss+…://, or tls in a Config)"
            )));
        }
    }
    match (&settings.cert, &settings.key) {
        (Some(_), None) => Err(LockError::config("key: required with cert")),
        (None, Some(_)) => Err(LockError::config("cert: required with key")),
        _ => Ok(()),
    }
}

fn check_prefix(backend: BackendKind, prefix: &str, signal_lists: bool) -> Result<()> {
    if backend != BackendKind::Redis {
        return Ok(());
    }
    // Side keys begin with a hash tag; keys with such a prefix could not be distinguished from them.
    if prefix.starts_with('{') {
        return Err(LockError::config("prefix: cannot begin with \"{\" on redis"));
    }
    // No other lock has such a list.
    if signal_lists && !prefix.starts_with("lock:") {
        return Err(LockError::config("signal_lists: requires a prefix that begins with \"lock:\""));
    }
    Ok(())
}

/// Checks a TTL, also against the backend's minimum.
pub(crate) fn check_ttl(ttl: Duration, min: Duration) -> Result<()> {
    Bound::Ttl.check("ttl", ttl)?;
    if ttl < min {
        return Err(LockError::config(format!("ttl: {ttl:?} is shorter than the backend's minimum, {min:?}")));
    }
    Ok(())
}
