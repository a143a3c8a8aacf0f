//! The files for TLS, which are read again at each connection, so that certificates can be replaced.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use redis::{Client, ConnectionInfo, RedisError};

use crate::backend::{BackendError, ErrorKind};

/// The files for TLS, all of them optional and in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "redis-tls"), allow(dead_code))]
pub(crate) struct Tls {
    /// The certificates of the authorities that may sign the server's; `None` for the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// Creates a client that uses TLS.
#[cfg(feature = "redis-tls")]
pub(super) fn client(info: ConnectionInfo, tls: &Tls) -> Result<Client, RedisError> {
    use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
    // The client uses the process's provider, and panics if there is none. An error means that another thread has set one.
    if CryptoProvider::get_default().is_none() {
        let _ = ring::default_provider().install_default();
    }
    let root_cert = tls.ca.as_ref().map(std::fs::read).transpose()?;
    let client_tls = match &tls.identity {
        Some((certificate, key)) => {
            Some(redis::ClientTlsConfig { client_cert: std::fs::read(certificate)?, client_key: std::fs::read(key)? })
        }
        None => None,
    };
    Client::build_with_tls(info, redis::TlsCertificates { client_tls, root_cert })
}

#[cfg(not(feature = "redis-tls"))]
pub(super) fn client(info: ConnectionInfo, _: &Tls) -> Result<Client, RedisError> {
    // Never called: settings with TLS are refused without the feature. The client, built without TLS as well, would refuse it.
    Client::open(info)
}

/// Whether the error is about the files for TLS or the password, which were valid when the manager connected: they may be about to
/// be replaced.
pub(super) fn is_about_files(error: &BackendError) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<RedisError>());
    error.kind() == ErrorKind::Misconfigured || cause.is_some_and(is_about_certificates)
}

/// Whether the error is about certificates.
pub(super) fn is_about_certificates(error: &RedisError) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, Other, PermissionDenied};
    matches!(io_error(error), Some(InvalidData | NotFound | Other | PermissionDenied))
}

/// Whether the server closed the connection. It verifies the client's certificate after the handshake has ended for the client, so
/// this may be its refusal; but the server may also be restarting.
pub(super) fn may_be_a_refusal(error: &RedisError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(io_error(error), Some(BrokenPipe | ConnectionReset | UnexpectedEof))
}

fn io_error(error: &RedisError) -> Option<io::ErrorKind> {
    let source = error.source()?;
    // The client hides the cause in an Arc.
    let hidden = source.downcast_ref::<Arc<dyn Error + Send + Sync>>();
    let cause: &(dyn Error + 'static) = hidden.map_or(source, |hidden| &**hidden);
    cause.downcast_ref::<io::Error>().map(io::Error::kind)
}
