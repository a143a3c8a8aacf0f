//! From settings, or a client of the user's, to a backend: the only file with a `cfg` for each of them.

use std::sync::Arc;

#[cfg(any(feature = "etcd", feature = "redis"))]
use crate::backend::Account;
use crate::backend::Caught;
#[cfg(feature = "etcd")]
use crate::backend::etcd;
#[cfg(feature = "cli")]
use crate::backend::examination::Examined;
#[cfg(all(feature = "file", target_os = "linux"))]
use crate::backend::file;
use crate::backend::memory::{Memory, Store};
#[cfg(feature = "redis")]
use crate::backend::redis::{self, Address, Node, Server, Target, Tls, Watched};
use crate::backend::{Backend, Clock, SystemClock};
#[cfg(any(feature = "etcd", feature = "redis"))]
use crate::credentials::Credentials;
#[cfg(all(feature = "file", target_os = "linux"))]
use crate::engine::name;
#[cfg(any(feature = "etcd", feature = "redis", all(feature = "file", target_os = "linux")))]
use crate::error::{BackendError, ErrorKind};
use crate::error::{LockError, Result};
use crate::keeper::Keeper;
#[cfg(feature = "etcd")]
use crate::settings::check_ttl;
use crate::settings::{BackendKind, Settings};

/// A store in this process, shared by name where there is one.
pub(super) fn memory(name: Option<&str>, clock: &Arc<dyn Clock>) -> Arc<dyn Backend> {
    let store = name.map_or_else(Store::private, Store::named);
    Arc::new(Memory::new(store, clock.clone()))
}

/// A backend of the user's, which may panic, or one of ours whose client may.
pub(super) fn caught(backend: Arc<dyn Backend>) -> Arc<dyn Backend> {
    Arc::new(Caught::new(backend))
}

/// Uses a client of the user's.
#[cfg(feature = "etcd")]
pub(super) fn etcd_client(
    client: etcd_client::Client,
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    keeper: &Arc<Keeper>,
) -> Arc<dyn Backend> {
    let prefix = settings.prefix(BackendKind::Etcd).to_owned();
    let (timeout, retry) = (settings.timeout, settings.retry_interval);
    caught(Arc::new(etcd::Etcd::with_client(client, prefix, timeout, retry, clock.clone(), keeper.runtime().clone())))
}

/// The clock by which leases of this backend end.
pub(super) fn clock(backend: BackendKind) -> Arc<dyn Clock> {
    match backend {
        #[cfg(all(feature = "file", target_os = "linux"))]
        BackendKind::File => Arc::new(file::AwakeClock),
        _ => Arc::new(SystemClock),
    }
}

/// Connects to what the settings name.
pub(super) async fn connect(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    keeper: &Arc<Keeper>,
) -> Result<Arc<dyn Backend>> {
    match settings.backend {
        BackendKind::Memory => Ok(memory(settings.store.as_deref(), clock)),
        #[cfg(all(feature = "file", target_os = "linux"))]
        BackendKind::File => {
            let options = file_options(settings);
            let opening = file::File::open(options, clock.clone(), keeper.runtime().clone());
            Ok(Arc::new(connected(keeper.run(opening).await)?))
        }
        #[cfg(not(all(feature = "file", target_os = "linux")))]
        BackendKind::File => {
            let what = match cfg!(target_os = "linux") {
                true => "file: support is not compiled in; enable the feature `file`",
                false => "file: supported on Linux only",
            };
            Err(LockError::Unsupported { what: what.into() })
        }
        #[cfg(feature = "etcd")]
        BackendKind::Etcd => {
            check_ttl(settings.ttl, etcd::MIN_TTL)?;
            let options = etcd_options(settings)?;
            let connecting = etcd::Etcd::connect(options, clock.clone(), keeper.runtime().clone());
            Ok(caught(Arc::new(connected(keeper.run(connecting).await)?)))
        }
        #[cfg(not(feature = "etcd"))]
        BackendKind::Etcd => {
            let _ = keeper;
            Err(LockError::Unsupported { what: "etcd: support is not compiled in; enable the feature `etcd`".into() })
        }
        #[cfg(feature = "redis")]
        BackendKind::Redis => redis(redis_target(settings)?, settings, clock, keeper).await,
        #[cfg(not(feature = "redis"))]
        BackendKind::Redis => {
            Err(LockError::Unsupported { what: "redis: support is not compiled in; enable the feature `redis`".into() })
        }
    }
}

#[cfg(all(feature = "file", target_os = "linux"))]
fn file_options(settings: &Settings) -> file::Options {
    file::Options {
        directory: settings.directory.clone().unwrap_or_default(),
        mode: settings.mode,
        prefix: settings.prefix(BackendKind::File).to_owned(),
        name: name(settings),
    }
}

#[cfg(feature = "etcd")]
fn etcd_options(settings: &Settings) -> Result<etcd::Options> {
    if settings.tls && cfg!(not(feature = "etcd-tls")) {
        return Err(LockError::Unsupported {
            what: "etcds: TLS support is not compiled in; enable the feature `etcd-tls`".into(),
        });
    }
    Ok(etcd::Options {
        endpoints: settings.endpoints.clone(),
        account: account(settings),
        prefix: settings.prefix(BackendKind::Etcd).to_owned(),
        timeout: settings.timeout,
        retry_interval: settings.retry_interval,
        #[cfg(feature = "etcd-tls")]
        tls: settings.tls.then(|| etcd::Tls {
            ca: settings.ca.clone(),
            cert: settings.cert.clone(),
            key: settings.key.clone(),
        }),
    })
}

#[cfg(any(feature = "etcd", feature = "redis"))]
fn account(settings: &Settings) -> Account {
    let username = settings.username.clone().unwrap_or_default();
    match (&settings.password, &settings.password_file, &settings.credentials) {
        (Some(password), ..) => Account::Fixed(Credentials::new(username, password.clone())),
        (_, Some(file), _) => Account::File { username, file: file.clone() },
        (.., Some(source)) => Account::Source(source.clone()),
        _ => Account::Anonymous,
    }
}

#[cfg(any(feature = "etcd", feature = "redis", all(feature = "file", target_os = "linux")))]
fn connected<B>(outcome: Option<Result<B, BackendError>>) -> Result<B> {
    let ended = || Err(BackendError::new(ErrorKind::Closed, "the background thread has ended"));
    outcome.unwrap_or_else(ended).map_err(|error| LockError::backend(None, "connect", error))
}

#[cfg(feature = "redis")]
fn redis_target(settings: &Settings) -> Result<Target> {
    if settings.tls && cfg!(not(feature = "redis-tls")) {
        return Err(LockError::Unsupported {
            what: "rediss: TLS support is not compiled in; enable the feature `redis-tls`".into(),
        });
    }
    let node = |endpoint: &String| {
        let (host, port) = endpoint.rsplit_once(':')?;
        Some(Node { host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? })
    };
    let mut nodes: Vec<_> = settings.endpoints.iter().filter_map(node).collect();
    let identity = settings.cert.clone().zip(settings.key.clone());
    let tls = settings.tls.then(|| Tls { ca: settings.ca.clone(), identity });
    let address = match (&settings.unix_path, &settings.master) {
        (Some(path), _) => Address::Unix(path.clone()),
        (None, _) if settings.cluster => Address::Cluster { nodes: unordered(nodes), tls },
        (None, Some(master)) => {
            let account = match &settings.sentinel_password {
                Some(password) => Account::Fixed(Credentials::new(
                    settings.sentinel_username.clone().unwrap_or_default(),
                    password.clone(),
                )),
                None => Account::Anonymous,
            };
            Address::Watched(Box::new(Watched { sentinels: unordered(nodes), master: master.clone(), account, tls }))
        }
        (None, None) => {
            let node = nodes.pop().ok_or_else(|| LockError::config("redis: expects exactly one host or socket"))?;
            Address::Tcp { host: node.host, port: node.port, tls }
        }
    };
    Ok(Target::Server(Server { address, account: account(settings), database: settings.database.unwrap_or_default() }))
}

/// The same nodes in any order are the same target.
#[cfg(feature = "redis")]
fn unordered(mut nodes: Vec<Node>) -> Vec<Node> {
    nodes.sort();
    nodes.dedup();
    nodes
}

/// Connects to Redis.
#[cfg(feature = "redis")]
pub(super) async fn redis(
    target: Target,
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    keeper: &Arc<Keeper>,
) -> Result<Arc<dyn Backend>> {
    let options = redis_options(target, settings);
    let connecting = redis::Redis::connect(options, clock.clone(), keeper.runtime().clone());
    Ok(caught(Arc::new(connected(keeper.run(connecting).await)?)))
}

#[cfg(feature = "redis")]
fn redis_options(target: Target, settings: &Settings) -> redis::Options {
    redis::Options {
        target,
        prefix: settings.prefix(BackendKind::Redis).to_owned(),
        timeout: settings.timeout,
        min_replicas: settings.min_replicas,
        signal_lists: settings.signal_lists,
    }
}

/// Examines what the settings name. `None` of a backend that is not compiled in, which a connection reports.
#[cfg(feature = "cli")]
pub(super) async fn examine(settings: &Settings, keeper: &Arc<Keeper>) -> Result<Option<Examined>> {
    match settings.backend {
        #[cfg(all(feature = "file", target_os = "linux"))]
        BackendKind::File => Ok(keeper.run(file::examine(file_options(settings))).await),
        #[cfg(feature = "etcd")]
        BackendKind::Etcd => Ok(keeper.run(etcd::examine(etcd_options(settings)?, settings.ttl)).await),
        #[cfg(feature = "redis")]
        BackendKind::Redis => {
            let options = redis_options(redis_target(settings)?, settings);
            Ok(keeper.run(redis::examine(options, settings.ttl)).await)
        }
        _ => {
            let _ = keeper;
            Ok(None)
        }
    }
}

#[cfg(all(test, feature = "file", target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn time_that_a_machine_is_suspended_counts_unless_the_waiters_are_suspended_with_the_holder() {
        assert_eq!(format!("{:?}", clock(BackendKind::File)), format!("{:?}", file::AwakeClock));
        for backend in [BackendKind::Memory, BackendKind::Etcd, BackendKind::Redis] {
            assert_eq!(format!("{:?}", clock(backend)), format!("{SystemClock:?}"));
        }
    }
}
