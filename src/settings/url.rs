//! The URL of a manager.
//!
//! Errors must not show a password, and a malformed URL can contain one anywhere: `etcd://user:pa/ss@host` has it where the port
//! and the path are expected, `etcd://user:secret` where the port is. So errors never quote user, password, port or path. They
//! quote hosts and options, unless an `@` follows, after which these may be part of a password.

use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

use super::options::{self, number};
use super::{BackendKind, Settings};
use crate::display::Printable;
use crate::error::{LockError, Result};

const NOT_SHOWN: &str = "(not shown: an \"@\" follows)";
const SCHEMES: &str = "memory, file, etcd, etcds, redis, rediss, redis+unix, redis+sentinel, rediss+sentinel, redis+cluster, rediss+cluster";
/// The forms of a URL for several servers.
const SENTINEL: &str = "redis+sentinel://host[:26379][,host…]/master[/database]";
const CLUSTER: &str = "redis+cluster://host[:6379][,host…]";

/// Parses a URL, without checking whether its parts are consistent.
pub(super) fn parse(url: &str) -> Result<Settings> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(LockError::config(format!("url: missing scheme; expected one of {SCHEMES}, followed by \"://\"")));
    };
    let mut settings = of_scheme(scheme)?;
    if rest.contains('#') {
        return Err(LockError::config("url: \"#\" must be written as %23"));
    }
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match address.find('/') {
        Some(at) => address.split_at(at),
        None => (address, ""),
    };
    let show = !query.contains('@');
    let hosts = match authority.split_once('@') {
        Some((_, hosts)) if hosts.contains('@') => {
            return Err(LockError::config("url: \"@\" in a user or password must be written as %40"));
        }
        Some((user, hosts)) => {
            credentials(&mut settings, user)?;
            hosts
        }
        None => authority,
    };
    if path.contains('@') {
        return Err(LockError::config("url: \"/\" and \"@\" in a user or password must be written as %2F and %40"));
    }
    address_of(&mut settings, scheme, (hosts, path), show)?;
    set_options(&mut settings, query, show)?;
    Ok(settings)
}

fn of_scheme(scheme: &str) -> Result<Settings> {
    let lowercase = scheme.to_ascii_lowercase();
    let (backend, tls) = match lowercase.as_str() {
        "memory" => (BackendKind::Memory, false),
        "file" => (BackendKind::File, false),
        "etcd" => (BackendKind::Etcd, false),
        "etcds" => (BackendKind::Etcd, true),
        "redis" | "redis+unix" | "redis+sentinel" | "redis+cluster" => (BackendKind::Redis, false),
        "rediss" | "rediss+sentinel" | "rediss+cluster" => (BackendKind::Redis, true),
        // The forms of other clients.
        other if other.starts_with("redis") && other.ends_with("sentinel") => {
            return Err(LockError::config(format!("url: unknown scheme; for Sentinel it is {SENTINEL}")));
        }
        other if other.starts_with("redis") && other.ends_with("cluster") => {
            return Err(LockError::config(format!("url: unknown scheme; for a cluster it is {CLUSTER}")));
        }
        // A text with other characters is not a scheme, and may contain a password.
        other if other.len() <= 20 && other.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => {
            return Err(LockError::config(format!("url: unknown scheme {scheme:?}; known schemes are {SCHEMES}")));
        }
        _ => return Err(LockError::config(format!("url: unknown scheme; known schemes are {SCHEMES}"))),
    };
    Ok(Settings { backend, tls, ..Settings::default() })
}

fn credentials(settings: &mut Settings, userinfo: &str) -> Result<()> {
    let (user, password) = match userinfo.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (userinfo, None),
    };
    let user = decoded(user).ok_or_else(|| LockError::config("username: invalid percent escape"))?;
    let password =
        password.map(decoded).map(|text| text.ok_or_else(|| LockError::config("password: invalid percent escape")));
    settings.set_account(Some(user), password.transpose()?.map(Into::into));
    Ok(())
}

fn address_of(settings: &mut Settings, scheme: &str, (hosts, path): (&str, &str), show: bool) -> Result<()> {
    let bare = path.is_empty() || path == "/";
    let endpoints = |hosts: &str, port| hosts.split(',').map(|host| endpoint(host, port, show)).collect::<Result<_>>();
    let is_of = |kind: &str| scheme.to_ascii_lowercase().ends_with(&format!("+{kind}"));
    match settings.backend {
        BackendKind::Memory => {
            if !bare {
                return Err(LockError::config("memory: \"/\" in the name must be written as %2F"));
            }
            let text = decoded(hosts).ok_or_else(|| LockError::config("memory: invalid percent escape in the name"))?;
            settings.store = Some(text).filter(|text| !text.is_empty());
        }
        BackendKind::File => {
            if !hosts.is_empty() || bare {
                return Err(LockError::config("file: expects a path and no host, as in file:///run/leasehold"));
            }
            let path = decoded(path).filter(|path| !path.contains('\0'));
            let path = path.ok_or_else(|| LockError::config("file: invalid percent escape in the path"))?;
            settings.directory = Some(path.into());
        }
        BackendKind::Etcd => {
            settings.endpoints = endpoints(hosts, 2379)?;
            if !bare {
                return Err(LockError::config("etcd: expects no path after the hosts; set the prefix with ?prefix=…"));
            }
        }
        BackendKind::Redis if is_of("unix") => {
            if !hosts.is_empty() || bare {
                return Err(LockError::config(
                    "redis+unix: expects a path and no host, as in redis+unix:///run/redis.sock",
                ));
            }
            let path = decoded(path).filter(|path| !path.contains('\0'));
            let path = path.ok_or_else(|| LockError::config("redis+unix: invalid percent escape in the path"))?;
            settings.unix_path = Some(path.into());
        }
        BackendKind::Redis if is_of("sentinel") => {
            settings.endpoints = endpoints(hosts, 26379)?;
            let (master, database) = path
                .get(1..)
                .and_then(|path| path.split_once('/'))
                .unwrap_or_else(|| (path.get(1..).unwrap_or_default(), ""));
            if master.is_empty() {
                return Err(LockError::config(format!("master: missing; the URL is {SENTINEL}")));
            }
            let master = decoded(master).ok_or_else(|| LockError::config("master: invalid percent escape"))?;
            settings.master = Some(master);
            settings.database = database_of(database)?;
        }
        BackendKind::Redis if is_of("cluster") => {
            settings.endpoints = endpoints(hosts, 6379)?;
            settings.cluster = true;
            settings.database = database_of(path.get(1..).unwrap_or_default())?;
        }
        BackendKind::Redis => {
            if hosts.contains(',') {
                let reason = format!("redis: expects exactly one host; for several it is {SENTINEL} or {CLUSTER}");
                return Err(LockError::config(reason));
            }
            settings.endpoints = endpoints(hosts, 6379)?;
            settings.database = database_of(path.get(1..).unwrap_or_default())?;
        }
    }
    Ok(())
}

/// Parses the number of a database, which may be absent.
fn database_of(text: &str) -> Result<Option<u32>> {
    let expected = || LockError::config("database: expects a number");
    Some(text).filter(|text| !text.is_empty()).map(|text| number(text).ok_or_else(expected)).transpose()
}

/// Parses a host with or without a port into `host:port`.
pub(crate) fn endpoint(text: &str, default_port: u16, show: bool) -> Result<String> {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let bracketed = bracketed.split_once(']').filter(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
        let Some((address, rest)) = bracketed else {
            return Err(LockError::config("host: invalid IPv6 address in brackets"));
        };
        match rest.strip_prefix(':') {
            Some(port) => (format!("[{address}]"), Some(port)),
            None if rest.is_empty() => (format!("[{address}]"), None),
            None => return Err(LockError::config(format!("host: unexpected text between [{address}] and the port"))),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        }
    };
    let quoted = if show { format!("{:?}", Printable(&host)) } else { NOT_SHOWN.into() };
    if host.is_empty() {
        return Err(LockError::config("host: missing"));
    }
    if !host.starts_with('[') && !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(LockError::config(format!("host: {quoted} is not a valid host name")));
    }
    let port = match port {
        None => default_port,
        Some("") => return Err(LockError::config(format!("port: missing after {quoted}"))),
        Some(port) => number(port)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0)
            .ok_or_else(|| LockError::config(format!("port: invalid port after {quoted}")))?,
    };
    Ok(format!("{host}:{port}"))
}

/// Parses the query; `show` determines whether errors may quote it.
fn set_options(settings: &mut Settings, query: &str, show: bool) -> Result<()> {
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (pair, None),
        };
        let quoted = |word: &str| if show { format!("{:?}", Printable(word)) } else { NOT_SHOWN.into() };
        let Some(name) = decoded(name) else {
            return Err(LockError::config(format!("url: invalid percent escape in the option {}", quoted(name))));
        };
        let Some(option) = options::in_query(&name) else {
            let (name, known) = (quoted(&name), options::names_in_query());
            return Err(LockError::config(format!("url: unknown option {name}; options are {known}")));
        };
        if seen.contains(&option.name) {
            return Err(LockError::config(format!("{name}: given twice")));
        }
        seen.push(option.name);
        // Also if it is given as by default.
        option.check_backend(settings.backend)?;
        let Some(value) = value else {
            return Err(LockError::config(format!("{name}: missing value")));
        };
        let quoted = |value: &str| if option.value.is_displayed() { quoted(value) } else { "the value".into() };
        let Some(value) = decoded(value) else {
            return Err(LockError::config(format!("{name}: invalid percent escape in {}", quoted(value))));
        };
        if option.set(settings, &value).is_none() {
            return Err(LockError::config(format!("{name}: {} is not {}", quoted(&value), option.takes())));
        }
    }
    Ok(())
}

/// Percent-decodes; `None` where an escape is not two hex digits, or the result is not UTF-8. A plus stays a plus.
fn decoded(text: &str) -> Option<String> {
    // The crate does not reject malformed escapes.
    let well_formed = text.split('%').skip(1).all(|rest| {
        let mut bytes = rest.bytes();
        (0..2).all(|_| bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit()))
    });
    if well_formed { percent_decode_str(text).decode_utf8().ok().map(Into::into) } else { None }
}
