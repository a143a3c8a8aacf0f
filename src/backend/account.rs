//! The account of a connection, which is asked for at each one.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::backend::{BackendError, ErrorKind, Result};
use crate::credentials::{Credentials, CredentialsSource};
use crate::process::foreign::Catching;
use crate::process::report::{Foreign, catch};

/// The maximum length of a password in a file, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// Where the credentials of a connection come from. Connections with equal accounts are shared.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) enum Account {
    #[default]
    Anonymous,
    Fixed(Credentials),
    /// The password is read from a file at each connection.
    File {
        username: String,
        file: PathBuf,
    },
    /// The user's callback is asked at each connection.
    Source(CredentialsSource),
}

impl Account {
    /// Returns the credentials for the next connection.
    ///
    /// # Errors
    ///
    /// `Misconfigured` if the file has no password, `Unreachable` if the file or the callback does not return one within `limit`.
    /// The texts have neither the path nor any contents.
    pub(super) async fn credentials(&self, limit: Duration) -> Result<Option<Credentials>> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Fixed(credentials) => Ok(Some(credentials.clone())),
            Self::File { username, file } => {
                let password = read_within(file.clone(), limit).await?;
                Ok(Some(Credentials::new(username, password)))
            }
            Self::Source(source) => ask(source, limit).await.map(Some),
        }
    }

    /// Returns whether the next connection may have other credentials.
    #[cfg(feature = "etcd")]
    pub(super) fn may_change(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Source(_))
    }
}

/// Without secrets.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Fixed(_) => "Fixed",
            Self::File { .. } => "File",
            Self::Source(_) => "Source",
        })
    }
}

/// Reads a password on a separate thread: a file system whose server does not answer blocks it, maybe for ever.
async fn read_within(file: PathBuf, limit: Duration) -> Result<String> {
    let unreadable =
        |reason: &dyn fmt::Display| BackendError::new(ErrorKind::Unreachable, format!("password_file: {reason}"));
    let (reply, answer) = oneshot::channel();
    // Without a receiver the limit has passed.
    let read = move || drop(reply.send(read(&file)));
    let started = std::thread::Builder::new().name("leasehold-password".into()).spawn(read);
    started.map_err(|_| unreadable(&"the system cannot start a thread to read it"))?;
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(password)) => password,
        Ok(Err(_)) => Err(unreadable(&"not read")),
        Err(_) => Err(unreadable(&format_args!("not read within {limit:?}"))),
    }
}

/// Reads a password, without the line break at its end.
fn read(file: &Path) -> Result<String> {
    let unusable = |reason: &dyn fmt::Display| {
        BackendError::new(ErrorKind::Misconfigured, format!("password_file: cannot be used: {reason}"))
    };
    // To open a pipe would wait for its writer, and its contents can be read once only.
    if std::fs::metadata(file).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Err(unusable(&"not a regular file"));
    }
    let mut text = String::new();
    // An error of the system may be displayed, but not with its text, which could quote the path.
    let opened = File::open(file).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    opened.map_err(|error| unusable(&error.kind()))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(unusable(&format_args!("longer than {MAX_BYTES} bytes")));
    }
    let password = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    // A file that is about to be written, most likely.
    if password.is_empty() { Err(unusable(&"it is empty")) } else { Ok(password.into()) }
}

async fn ask(source: &CredentialsSource, limit: Duration) -> Result<Credentials> {
    let failed = |what: &dyn fmt::Display| {
        BackendError::new(ErrorKind::Unreachable, format!("not connected: the credentials callback {what}"))
    };
    // The callback may keep this thread before it returns its future.
    let started = Instant::now();
    let asking = catch(Foreign::Credentials, || source.ask()).ok_or_else(|| failed(&"panicked"))?;
    match tokio::time::timeout(limit.saturating_sub(started.elapsed()), Catching::new(Foreign::Credentials, asking))
        .await
    {
        Ok(Some(Some(credentials))) => Ok(credentials),
        Ok(Some(None)) => Err(failed(&"failed")),
        Ok(None) => Err(failed(&"panicked")),
        Err(_) => Err(failed(&format_args!("did not answer within {limit:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::folder::Folder;

    #[test]
    fn a_line_break_at_the_end_of_the_file_is_no_part_of_the_password() {
        let folder = Folder::new();
        let file = folder.path().join("password");
        for (text, password) in
            [("pw", "pw"), ("pw\n", "pw"), ("pw\r\n", "pw"), (" p w \n\n", " p w \n"), ("pw\r", "pw\r")]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read(&file).unwrap(), password);
        }
        for wrong in [&b""[..], b"\n", b"\xff\xfe", &[b'x'; 64 * 1024 + 1]] {
            std::fs::write(&file, wrong).unwrap();
            let error = read(&file).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Misconfigured);
            assert!(error.to_string().starts_with("password_file: ") && error.to_string().len() < 100, "{error}");
        }
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [folder.path().to_owned(), folder.path().join("hunter2"), pipe] {
            let error = read(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Misconfigured);
            assert!(!format!("{error:?}").contains(&*folder.path().to_string_lossy()), "{error:?}");
        }
    }
}
