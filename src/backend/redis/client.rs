//! Opening connections to a server: its address, the account, and TLS.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError,
};

use super::error::Meaning::Refused;
use super::options::{Address, Target};
use super::{error, tls};
use crate::backend::{BackendError, ErrorKind, Result};
use crate::credentials::Credentials;

/// How many requests may wait in the client: more than one manager ever has in flight.
const BUFFER: usize = 1024;

/// Opens a connection for commands.
pub(super) async fn connect(target: &Target, account: Option<&Credentials>) -> Result<MultiplexedConnection> {
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
        Address::Watched(_) | Address::Cluster { .. } => {
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
