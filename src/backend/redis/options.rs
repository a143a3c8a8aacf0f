//! Connecting: addresses, TLS files, and whether the server will do.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError,
};

use super::error;
use crate::backend::{BackendError, ErrorKind, Result};

/// The oldest version whose scripts may ask for the time.
const OLDEST: (u32, u32) = (5, 0);

/// How many requests may wait in the client: more than one manager ever has under way.
const BUFFER: usize = 1024;

/// How to get to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16, tls: Option<Tls> },
    Unix(PathBuf),
}

/// The files for TLS, all of them optional and in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "redis-tls"), allow(dead_code))]
pub(crate) struct Tls {
    /// The certificates of who may sign the server's; without, the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// Where the locks are, and as whom to ask for them.
#[derive(Clone)]
pub(crate) enum Target {
    Server(Server),
    /// What the user has put together.
    Client(Box<Client>),
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) address: Address,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: u32,
}

impl Server {
    /// Logs in and selects the database. The client would do it, but keeps from us why it was refused: a server with too many
    /// clients would look like one that knows no such password.
    async fn log_in(&self, connection: &mut MultiplexedConnection) -> std::result::Result<(), RedisError> {
        if let Some(password) = &self.password {
            let named = self.username.iter().chain([password]).collect::<Vec<_>>();
            match redis::cmd("AUTH").arg(named).query_async::<()>(connection).await {
                // Before Redis 6 there are no names of users.
                Err(error) if error.detail().is_some_and(|text| text.contains("wrong number of arguments")) => {
                    redis::cmd("AUTH").arg(password).query_async::<()>(connection).await?;
                }
                answer => answer?,
            }
        }
        if self.database != 0 {
            redis::cmd("SELECT").arg(self.database).query_async::<()>(connection).await?;
        }
        Ok(())
    }
}

/// Secrets stay out.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.to_string()).finish()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(Server { address: Address::Tcp { host, port, .. }, .. }) => write!(f, "{host}:{port}"),
            Self::Server(Server { address: Address::Unix(path), .. }) => write!(f, "{}", path.display()),
            Self::Client(client) => write!(f, "{}", client.get_connection_info().addr()),
        }
    }
}

impl Target {
    /// Makes the client, with or without what it is to log in with. Certificates are read each time, so that they can be exchanged.
    fn client(&self, login: bool) -> std::result::Result<Client, RedisError> {
        let Server { address, username, password, database } = match self {
            Self::Client(client) => return Ok((**client).clone()),
            Self::Server(server) => server,
        };
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        if login {
            settings = settings.set_db(i64::from(*database));
            if let Some(username) = username {
                settings = settings.set_username(username);
            }
            if let Some(password) = password {
                settings = settings.set_password(password);
            }
        }
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let at = |address: ConnectionAddr| -> std::result::Result<ConnectionInfo, RedisError> {
            Ok(address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp))
        };
        match address {
            Address::Unix(path) => Client::open(at(ConnectionAddr::Unix(path.clone()))?),
            Address::Tcp { host, port, tls: None } => Client::open(at(ConnectionAddr::Tcp(host.clone(), *port))?),
            Address::Tcp { host, port, tls: Some(tls) } => {
                let (host, port) = (host.clone(), *port);
                secured(at(ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None })?, tls)
            }
        }
    }

    /// Connects, for commands.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection> {
        // Requests have no timers: the supervisor sees what is overdue.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(BUFFER);
        let client = self.client(false).map_err(|error| self.explain_options(&error))?;
        let connecting = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            if let Self::Server(server) = self {
                server.log_in(&mut connection).await?;
            }
            Ok(connection)
        };
        connecting.await.map_err(|error: RedisError| self.explain(&error))
    }

    /// Connects, for messages.
    pub(super) async fn listen(&self) -> Result<PubSub> {
        let client = self.client(true).map_err(|error| self.explain_options(&error))?;
        client.get_async_pubsub().await.map_err(|error| self.explain(&error))
    }

    fn has_tls(&self) -> bool {
        matches!(self, Self::Server(Server { address: Address::Tcp { tls: Some(_), .. }, .. }))
    }

    /// Maps an error before anything was sent: of files for TLS, which may be about to be replaced.
    fn explain_options(&self, error: &RedisError) -> BackendError {
        if !self.has_tls() {
            return self.explain(error);
        }
        let reason = format!("the files for TLS to redis at {self} cannot be used: {error}");
        BackendError::new(ErrorKind::Misconfigured, reason).because(error.clone())
    }

    fn explain(&self, error: &RedisError) -> BackendError {
        let explained = error::of(&self.to_string(), error);
        if !self.has_tls() || explained.kind() != ErrorKind::Unreachable {
            return explained;
        }
        use std::io::ErrorKind as Io;
        match io_error(error) {
            // Certificates that are none or that nobody trusts: nothing that passes without help.
            _ if is_about_certificates(error) => {
                let reason = format!("redis at {self} cannot be used by TLS: {error}");
                BackendError::new(ErrorKind::Denied, reason).because(error.clone())
            }
            // The server looks at our certificate when the handshake is over for us. But it may also be restarting.
            Some(Io::BrokenPipe | Io::ConnectionReset | Io::UnexpectedEof) => {
                let reason = format!("redis at {self} has closed the connection: it may refuse our certificate");
                BackendError::new(ErrorKind::Unreachable, reason).because(error.clone())
            }
            _ => explained,
        }
    }

    /// Sees whether the server is one of those that will do.
    pub(super) async fn check(&self, link: &mut MultiplexedConnection) -> Result<()> {
        match redis::cmd("INFO").arg("server").query_async::<String>(link).await {
            Ok(info) => check_version(&self.to_string(), &info),
            // Not everyone may ask. The scripts will tell.
            Err(error) if error::of("", &error).kind() == ErrorKind::Denied && error.code() != Some("NOAUTH") => Ok(()),
            Err(error) => Err(self.explain(&error)),
        }
    }
}

#[cfg(feature = "redis-tls")]
fn secured(info: ConnectionInfo, tls: &Tls) -> std::result::Result<Client, RedisError> {
    use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
    // The client takes the process's provider, and panics where there is none. Whoever was faster than this has set one.
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
fn secured(info: ConnectionInfo, _: &Tls) -> std::result::Result<Client, RedisError> {
    // Refused by the client, which is built without TLS as well; nobody gets here, the builder has said so before.
    Client::open(info)
}

/// Whether it is an error of certificates: where they were good before, they may be about to be exchanged.
pub(super) fn is_about_certificates(error: &RedisError) -> bool {
    use std::io::ErrorKind as Io;
    matches!(io_error(error), Some(Io::InvalidData | Io::NotFound | Io::Other | Io::PermissionDenied))
}

fn io_error(error: &RedisError) -> Option<std::io::ErrorKind> {
    let source = error.source()?;
    // The client hides what went wrong in an Arc.
    let hidden = source.downcast_ref::<Arc<dyn Error + Send + Sync>>();
    let cause: &(dyn Error + 'static) = hidden.map_or(source, |hidden| &**hidden);
    cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
}

fn check_version(server: &str, info: &str) -> Result<()> {
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).map_or("", str::trim);
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => Err(error::too_old(server, version)),
        // Whoever calls himself otherwise may do.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_too_old_is_refused_and_the_minimum_named() {
        let of =
            |version: &str| check_version("host:1", &format!("# Server\r\nredis_version:{version}\r\nos:Linux\r\n"));
        for old in ["4.0.14", "3.2.1", "2.8.24"] {
            let error = of(old).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(old) && error.to_string().contains("5.0"), "{error}");
        }
        for new in ["5.0.0", "5.0.14", "6.2.1", "7.0.15", "10.1.0", "255.255.255", "unstable"] {
            assert!(of(new).is_ok(), "{new}");
        }
        assert!(check_version("host:1", "").is_ok());
    }
}
