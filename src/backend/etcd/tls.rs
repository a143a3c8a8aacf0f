//! TLS: its files, and the reasons why a handshake with them fails.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Identity, TlsOptions};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::backend::{BackendError, ErrorKind, Result};

/// The maximum wait for the server's refusal of the client's certificate.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(300);

/// The files for TLS, all of them optional and in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// The certificates of the authorities that may sign the server's. `None` for the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The client's certificate.
    pub(crate) cert: Option<PathBuf>,
    /// The key of the client's certificate.
    pub(crate) key: Option<PathBuf>,
}

/// The contents of the files.
pub(super) struct Loaded {
    /// The options for the client.
    pub(super) options: TlsOptions,
    /// The same for a separate handshake.
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files, and checks whether they can be used.
    pub(super) fn load(&self) -> Result<Loaded> {
        let mut options = TlsOptions::new();
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(file) => {
                let pem = read("ca", file)?;
                for certificate in certificates("ca", file, &pem)? {
                    roots.add(certificate).map_err(|error| unusable("ca", file, error))?;
                }
                options = options.ca_certificate(Certificate::from_pem(pem));
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                options = options.with_enabled_roots();
            }
        }
        let provider = CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| misconfigured(format!("TLS cannot be used: {error}")))?
            .with_root_certificates(roots);
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let (chain, secret) = (read("cert", cert)?, read("key", key)?);
                let certificates = certificates("cert", cert, &chain)?;
                let private = PrivateKeyDer::from_pem_slice(&secret)
                    .map_err(|_| unusable("key", key, "no private key in PEM"))?;
                options = options.identity(Identity::from_pem(chain, secret));
                config.with_client_auth_cert(certificates, private).map_err(|error| unusable("key", key, error))?
            }
            _ => config.with_no_client_auth(),
        };
        config.alpn_protocols.push(b"h2".to_vec());
        Ok(Loaded { options, config: Arc::new(config) })
    }
}

impl Loaded {
    /// Returns why one side refuses the other's certificate, after a connection has failed.
    ///
    /// The client does not report it: if the server refuses, the connection is closed before the reason was read.
    pub(super) async fn refusal(&self, endpoint: &str, limit: Duration) -> Option<BackendError> {
        let handshake = async {
            let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host).trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned()).ok()?;
            let stream = TcpStream::connect(endpoint).await.ok()?;
            match TlsConnector::from(self.config.clone()).connect(name, stream).await {
                Ok(mut stream) => {
                    // With TLS 1.3 the server checks the client's certificate after the client has completed the handshake.
                    let refusal = stream.read_u8();
                    tokio::time::timeout(REFUSAL_TIMEOUT, refusal).await.ok()?.err()
                }
                Err(error) => Some(error),
            }
        };
        let error = tokio::time::timeout(limit, handshake).await.ok()??;
        let reason = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let reason = match reason {
            rustls::Error::InvalidCertificate(what) => format!("its certificate is no good: {what}"),
            rustls::Error::AlertReceived(alert) => {
                format!("it refuses our certificate, or that there is none: {alert:?}")
            }
            other => other.to_string(),
        };
        Some(BackendError::new(ErrorKind::Denied, format!("no TLS with etcd at {endpoint}: {reason}")).because(error))
    }
}

fn read(option: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| unusable(option, file, error))
}

fn certificates(option: &str, file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<std::result::Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(unusable(option, file, "no certificate in PEM")),
    }
}

fn unusable(option: &str, file: &Path, reason: impl Display) -> BackendError {
    misconfigured(format!("{option}: cannot use {}: {reason}", file.display()))
}

fn misconfigured(reason: String) -> BackendError {
    BackendError::new(ErrorKind::Misconfigured, reason)
}
