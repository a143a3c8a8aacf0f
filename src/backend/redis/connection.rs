//! Connecting, and the connection for commands, which managers share.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError,
};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::error::Meaning::Refused;
use super::options::{Address, Server, Target};
use super::scripts::Scripts;
use super::{commands, error, tls};
use crate::backend::shared::Pool;
use crate::backend::{BackendError, ErrorKind, Result};
use crate::credentials::Credentials;
use crate::process::report::debug;

/// The longest time to wait for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The oldest version whose scripts can read the time.
const OLDEST: (u32, u32) = (5, 0);

/// How many requests may wait in the client: more than one manager ever has in flight.
const BUFFER: usize = 1024;

/// A connection, and its generation: how often one was opened before it, from 1.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) generation: u64,
    pub(super) client: MultiplexedConnection,
}

/// The current connection of all managers with one target. The first one to find it broken opens the next generation.
#[derive(Debug, Default)]
pub(super) struct SharedConnection(Mutex<Option<Connection>>);

impl SharedConnection {
    /// Returns the connection of all managers with this target, or a new one for a client that the user configured.
    pub(super) async fn of(target: &Target, handle: &Handle) -> Result<Arc<Self>> {
        static CONNECTIONS: Pool<Server, SharedConnection> = Pool::new();
        match target {
            Target::Server(server) => CONNECTIONS.get(handle.id(), server.clone(), async { Ok(Arc::default()) }).await,
            Target::Client(_) => Ok(Arc::default()),
        }
    }

    /// Returns the current connection, unless it is of generation `broken` or there is none; then `open` opens the next one.
    async fn get(&self, broken: u64, open: impl Future<Output = Result<MultiplexedConnection>>) -> Result<Connection> {
        let mut current = self.0.lock().await;
        match &*current {
            Some(connection) if connection.generation != broken => Ok(connection.clone()),
            _ => {
                let connection = Connection { generation: broken + 1, client: open.await? };
                *current = Some(connection.clone());
                Ok(connection)
            }
        }
    }
}

/// Opens one connection after another, and prepares each for a manager's requests.
#[derive(Debug)]
pub(super) struct Connector {
    target: Target,
    server: String,
    shared: Arc<SharedConnection>,
    scripts: Scripts,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(target: Target, shared: Arc<SharedConnection>, scripts: Scripts, timeout: Duration) -> Self {
        Self { server: target.to_string(), target, shared, scripts, timeout }
    }

    /// Returns the first connection. If another manager has opened it, the server must answer on it.
    pub(super) async fn open(&self) -> Result<Connection> {
        let mut broken = 0;
        match self.reopen(&mut broken).await {
            // The other managers have not noticed yet that theirs is broken.
            Err(error) if error.kind() == ErrorKind::Unreachable && broken > 0 => self.reopen(&mut broken).await,
            opened => opened,
        }
    }

    /// Returns a connection of a later generation than `broken`, which is updated if that one does not work either.
    pub(super) async fn reopen(&self, broken: &mut u64) -> Result<Connection> {
        // The first connection has the whole time limit. Later ones have less: a packet that is lost now may arrive at the next try.
        let (connect_limit, prepare_limit) = match *broken {
            0 => (self.timeout, self.timeout / 2),
            _ => (self.timeout.min(PATIENCE), self.timeout),
        };
        let open = async {
            let account = self.target.credentials(self.timeout).await?;
            self.within(connect_limit, connect(&self.target, account.as_ref())).await
        };
        let connection = self.shared.get(*broken, open).await?;
        *broken = connection.generation;
        self.within(prepare_limit.min(PATIENCE), self.prepare(connection.client.clone())).await?;
        Ok(connection)
    }

    async fn within<T>(&self, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(error::no_answer(&self.server, limit)))
    }

    async fn prepare(&self, mut client: MultiplexedConnection) -> Result<()> {
        check(&self.target, &mut client).await?;
        commands::check(&self.server, &mut client).await?;
        if let Err(error) = self.scripts.load().query_async::<()>(&mut client).await {
            // An account that may not load scripts sends each one with its first call.
            debug!(target: "leasehold::redis", "scripts not loaded: {}", error::of(&self.server, &error));
        }
        Ok(())
    }
}

/// Opens a connection for commands.
async fn connect(target: &Target, account: Option<&Credentials>) -> Result<MultiplexedConnection> {
    // Requests have no timers: the task that sends them notices what is overdue.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None)
        .set_pipeline_buffer_size(BUFFER);
    let client = client(target, RedisConnectionInfo::default()).map_err(|error| explain_options(target, &error))?;
    let connecting = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        if let Target::Server(server) = target {
            log_in(server.database, account, &mut connection).await?;
        }
        Ok(connection)
    };
    connecting.await.map_err(|error: RedisError| explain(target, &error))
}

/// Returns the settings with which a client logs in and selects the database.
pub(super) fn login(target: &Target, account: Option<&Credentials>) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default();
    if let Target::Server(server) = target {
        settings = settings.set_db(i64::from(server.database));
    }
    if let Some(account) = account {
        if !account.username().is_empty() {
            settings = settings.set_username(account.username());
        }
        settings = settings.set_password(account.password().expose());
    }
    settings
}

/// Creates the client. Certificates are read each time, so that they can be replaced.
pub(super) fn client(target: &Target, settings: RedisConnectionInfo) -> std::result::Result<Client, RedisError> {
    let address = match target {
        Target::Client(client) => return Ok((**client).clone()),
        Target::Server(server) => &server.address,
    };
    let settings = settings.set_skip_set_lib_name();
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    let at = |address: ConnectionAddr| -> std::result::Result<ConnectionInfo, RedisError> {
        Ok(address.into_connection_info()?.set_redis_settings(settings).set_tcp_settings(tcp))
    };
    match address {
        Address::Unix(path) => Client::open(at(ConnectionAddr::Unix(path.clone()))?),
        Address::Tcp { host, port, tls: None } => Client::open(at(ConnectionAddr::Tcp(host.clone(), *port))?),
        Address::Tcp { host, port, tls: Some(tls) } => {
            let (host, port) = (host.clone(), *port);
            tls::client(at(ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None })?, tls)
        }
        Address::Sentinel { .. } | Address::Cluster { .. } => {
            Err((redis::ErrorKind::InvalidClientConfig, "not supported yet").into())
        }
    }
}

/// Logs in and selects the database. The client could do it, but hides the reason of a refusal: a server with too many clients
/// would seem to have refused the password.
async fn log_in(
    database: u32,
    account: Option<&Credentials>,
    connection: &mut MultiplexedConnection,
) -> std::result::Result<(), RedisError> {
    if let Some(account) = account {
        let password = account.password().expose();
        let username = Some(account.username()).filter(|username| !username.is_empty());
        match redis::cmd("AUTH").arg(username).arg(password).query_async::<()>(connection).await {
            // Before Redis 6 there are no user names.
            Err(error) if error.detail().is_some_and(|text| text.contains("wrong number of arguments")) => {
                redis::cmd("AUTH").arg(password).query_async::<()>(connection).await?;
            }
            // A proxy, for example, that repeats what it does not understand.
            Err(error)
                if error::meaning(&error) == Some(Refused)
                    && !password.is_empty()
                    && error.detail().is_some_and(|text| text.contains(password)) =>
            {
                let reason =
                    (redis::ErrorKind::Client, "AUTH was refused; the text is not shown, because it has the password");
                return Err(reason.into());
            }
            answer => answer?,
        }
    }
    if database != 0 {
        redis::cmd("SELECT").arg(database).query_async::<()>(connection).await?;
    }
    Ok(())
}

/// Checks that the server has a supported version, and all keys.
async fn check(target: &Target, connection: &mut MultiplexedConnection) -> Result<()> {
    match redis::cmd("INFO").arg("server").query_async::<String>(connection).await {
        Ok(info) => check_version(&target.to_string(), &info).and_then(|()| check_mode(&target.to_string(), &info)),
        // Not every account may read it, and what is missing is named later. A server that is too old refuses the scripts.
        Err(error) if error::is_unknown_command(&error) => Ok(()),
        Err(error) if error::of("", &error).kind() == ErrorKind::Denied && error.code() != Some("NOAUTH") => Ok(()),
        Err(error) => Err(explain(target, &error)),
    }
}

fn check_version(server: &str, info: &str) -> Result<()> {
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).map_or("", str::trim);
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => Err(error::too_old(server, version)),
        // A server with another kind of version may work.
        _ => Ok(()),
    }
}

/// A node of a cluster serves a part of the keys only: calls for locks of different slots would fail, and their holds with them.
fn check_mode(server: &str, info: &str) -> Result<()> {
    // The second name is Valkey's.
    let mode =
        ["redis_mode:", "server_mode:"].iter().find_map(|name| info.lines().find_map(|line| line.strip_prefix(name)));
    match mode.map(str::trim) {
        Some("cluster") => Err(error::wrong_mode(server, "a node of a cluster")),
        Some("sentinel") => Err(error::wrong_mode(server, "a sentinel")),
        _ => Ok(()),
    }
}

/// Maps an error from before anything was sent: with TLS it is about its files, which may be about to be replaced.
pub(super) fn explain_options(target: &Target, error: &RedisError) -> BackendError {
    if !target.uses_tls() {
        return explain(target, error);
    }
    let reason = format!("the files for TLS to redis at {target} cannot be used: {error}");
    BackendError::new(ErrorKind::Misconfigured, reason).because(error.clone())
}

pub(super) fn explain(target: &Target, error: &RedisError) -> BackendError {
    let explained = error::of(&target.to_string(), error);
    if !target.uses_tls() || explained.kind() != ErrorKind::Unreachable {
        return explained;
    }
    if tls::is_about_certificates(error) {
        // Invalid or untrusted certificates: permanent until they are replaced.
        let reason = format!("redis at {target} cannot be used by TLS: {error}");
        return BackendError::new(ErrorKind::Denied, reason).because(error.clone());
    }
    if tls::may_be_a_refusal(error) {
        let reason = format!("redis at {target} has closed the connection: it may refuse our certificate");
        return BackendError::new(ErrorKind::Unreachable, reason).because(error.clone());
    }
    explained
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

    #[test]
    fn a_server_that_does_not_have_all_keys_is_refused() {
        for (mode, named) in
            [("redis_mode:cluster", "cluster"), ("server_mode:cluster", "cluster"), ("redis_mode:sentinel", "sentinel")]
        {
            let error = check_mode("host:1", &format!("# Server\r\nredis_version:7.0.15\r\n{mode}\r\nos:Linux\r\n"))
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Misconfigured);
            assert!(error.to_string().contains(named), "{error}");
        }
        for mode in ["redis_mode:standalone", "server_mode:standalone", "redis_mode:", ""] {
            assert!(check_mode("host:1", &format!("# Server\r\n{mode}\r\n")).is_ok(), "{mode}");
        }
    }
}
