//! Every option of the table, set in each of its ways.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::settings::{OPTIONS, Place};

type Set = fn(LockManagerBuilder) -> LockManagerBuilder;

/// How an option is set.
struct Case {
    option: &'static str,
    /// A backend that it is for; `tls` for etcd over TLS, `sentinel` for Redis behind sentinels.
    backend: &'static str,
    /// A value other than the default.
    value: &'static str,
    /// The same on the builder, if it has the option.
    set: Option<Set>,
    /// Options that it requires.
    with: &'static [(&'static str, &'static str)],
    /// A value out of bounds, the same on the builder, and what the error says of it.
    wrong: Option<(&'static str, Set, &'static str)>,
}

const MS: Duration = Duration::from_millis(1);
const DAYS: Duration = Duration::from_secs(2 * 24 * 60 * 60);

const NONE: Case = Case { option: "", backend: "memory", value: "", set: None, with: &[], wrong: None };

const CASES: &[Case] = &[
    Case { option: "store", value: "jobs", ..NONE },
    Case { option: "directory", backend: "file", value: "/run/leasehold", ..NONE },
    Case {
        option: "mode",
        backend: "file",
        value: "0770",
        #[cfg(feature = "file")]
        set: Some(|builder| builder.mode(0o770)),
        ..NONE
    },
    Case { option: "cluster", backend: "redis", value: "true", ..NONE },
    Case { option: "master", backend: "redis", value: "main", ..NONE },
    Case { option: "socket", backend: "redis", value: "/run/redis.sock", ..NONE },
    Case { option: "database", backend: "redis", value: "3", ..NONE },
    Case {
        option: "username",
        backend: "etcd",
        value: "joe",
        set: Some(|builder| builder.credentials("joe", "secret")),
        with: &[("password", "secret")],
        ..NONE
    },
    Case {
        option: "password",
        backend: "redis",
        value: "secret",
        set: Some(|builder| builder.credentials("joe", "secret")),
        with: &[("username", "joe")],
        ..NONE
    },
    Case {
        option: "password_file",
        backend: "etcd",
        value: "/run/secrets/etcd",
        with: &[("username", "joe")],
        wrong: Some(("", |builder| builder.password_file(""), "password_file: must not be empty")),
        ..NONE
    },
    Case {
        option: "password_file",
        backend: "redis",
        value: "/run/secrets/redis",
        set: Some(|builder| builder.password_file("/run/secrets/redis")),
        ..NONE
    },
    Case {
        option: "sentinel_username",
        backend: "sentinel",
        value: "watcher",
        set: Some(|builder| builder.sentinel_credentials("watcher", "secret")),
        with: &[("sentinel_password", "secret")],
        ..NONE
    },
    Case {
        option: "sentinel_password",
        backend: "sentinel",
        value: "secret",
        set: Some(|builder| builder.sentinel_credentials("", "secret")),
        ..NONE
    },
    Case {
        option: "ca",
        backend: "tls",
        value: "ca.pem",
        set: Some(|builder| builder.ca("ca.pem")),
        wrong: Some(("", |builder| builder.ca(""), "ca: must not be empty")),
        ..NONE
    },
    Case {
        option: "cert",
        backend: "tls",
        value: "cert.pem",
        set: Some(|builder| builder.identity("cert.pem", "key.pem")),
        with: &[("key", "key.pem")],
        wrong: Some(("", |builder| builder.identity("", "key.pem"), "cert: must not be empty")),
    },
    Case {
        option: "key",
        backend: "tls",
        value: "key.pem",
        set: Some(|builder| builder.identity("cert.pem", "key.pem")),
        with: &[("cert", "cert.pem")],
        wrong: Some(("", |builder| builder.identity("cert.pem", ""), "key: must not be empty")),
    },
    Case {
        option: "prefix",
        value: "jobs/",
        set: Some(|builder| builder.prefix("jobs/")),
        wrong: Some(("a\nb", |builder| builder.prefix("a\nb"), "prefix: must not contain control characters")),
        ..NONE
    },
    Case {
        option: "prefix",
        backend: "redis",
        value: "jobs:",
        set: Some(|builder| builder.prefix("jobs:")),
        wrong: Some(("{a}", |builder| builder.prefix("{a}"), "prefix: cannot begin with \"{\" on redis")),
        ..NONE
    },
    Case {
        option: "name",
        value: "shop",
        set: Some(|builder| builder.name("shop")),
        wrong: Some(("", |builder| builder.name(""), "name: must not be empty")),
        ..NONE
    },
    Case {
        option: "ttl",
        value: "1.5s",
        set: Some(|builder| builder.ttl(1500 * MS)),
        wrong: Some(("2days", |builder| builder.ttl(DAYS), "ttl: 172800s is longer than the maximum, one day")),
        ..NONE
    },
    Case {
        option: "timeout",
        value: "100ms",
        set: Some(|builder| builder.timeout(100 * MS)),
        wrong: Some(("0s", |builder| builder.timeout(Duration::ZERO), "timeout: must be longer than zero")),
        ..NONE
    },
    Case {
        option: "retry_interval",
        value: "50ms",
        set: Some(|builder| builder.retry_interval(50 * MS)),
        wrong: Some((
            "0ms",
            |builder| builder.retry_interval(Duration::ZERO),
            "retry_interval: must be longer than zero",
        )),
        ..NONE
    },
    Case { option: "max_retries", value: "7", set: Some(|builder| builder.max_retries(7)), ..NONE },
    Case { option: "auto_renew", value: "false", set: Some(|builder| builder.auto_renew(false)), ..NONE },
    Case {
        option: "max_hold",
        value: "1m 30s",
        set: Some(|builder| builder.max_hold(90_000 * MS)),
        wrong: Some(("0s", |builder| builder.max_hold(Duration::ZERO), "max_hold: must be longer than zero")),
        ..NONE
    },
    Case { option: "reentrant", value: "false", set: Some(|builder| builder.reentrant(false)), ..NONE },
    Case {
        option: "hand_over_time",
        value: "0s",
        set: Some(|builder| builder.hand_over(Duration::ZERO, 3)),
        with: &[("hand_over_times", "3")],
        ..NONE
    },
    Case {
        option: "hand_over_times",
        value: "3",
        set: Some(|builder| builder.hand_over(20 * MS, 3)),
        with: &[("hand_over_time", "20ms")],
        wrong: Some((
            "1024",
            |builder| builder.hand_over(MS, 1024),
            "hand_over_times: at most 1023 handovers in a row",
        )),
        ..NONE
    },
    Case { option: "drop_wait", value: "2s", set: Some(|builder| builder.drop_wait(2000 * MS)), ..NONE },
    Case { option: "min_replicas", backend: "redis", value: "2", set: Some(|builder| builder.min_replicas(2)), ..NONE },
    Case {
        option: "signal_lists",
        backend: "redis",
        value: "true",
        set: Some(|builder| builder.signal_lists(true)),
        ..NONE
    },
    Case {
        option: "signal_lists",
        backend: "redis",
        value: "true",
        set: Some(|builder| builder.signal_lists(true).prefix("lock:jobs/")),
        with: &[("prefix", "lock:jobs/")],
        wrong: Some((
            "true&prefix=jobs:",
            |builder| builder.signal_lists(true).prefix("jobs:"),
            "signal_lists: requires a prefix that begins with \"lock:\"",
        )),
    },
];

type Pairs = Vec<(&'static str, &'static str)>;

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn by_builder(builder: LockManagerBuilder) -> Result<Settings> {
    settings(builder.base, builder.changes, &builder.source)
}

/// A URL with these options, some of which are parts of its address.
fn url(backend: &str, options: &Pairs) -> String {
    let get = |name: &str| options.iter().find(|(option, _)| *option == name).map(|(_, value)| encoded(value));
    let (scheme, host) = match backend {
        "memory" => ("memory", get("store").unwrap_or_default()),
        // Its path is that of a test without another one.
        "file" => ("file", String::new()),
        "tls" => ("etcds", "host".to_owned()),
        "sentinel" => ("redis+sentinel", "host".to_owned()),
        "redis" if get("cluster").is_some() => ("redis+cluster", "host".to_owned()),
        "redis" if get("master").is_some() => ("redis+sentinel", "host".to_owned()),
        backend => (backend, "host".to_owned()),
    };
    let master = get("master").or((backend == "sentinel").then(|| "main".to_owned()));
    let directory = get("directory").or((backend == "file").then(|| "d".to_owned()));
    let path = [master, get("database"), directory].into_iter().flatten().collect::<Vec<_>>().join("/");
    let account = match (get("username"), get("password")) {
        (None, None) => String::new(),
        (Some(user), None) => format!("{user}@"),
        (user, Some(password)) => format!("{}:{password}@", user.unwrap_or_default()),
    };
    let address = match get("socket") {
        Some(path) => format!("redis+unix://{account}/{path}"),
        None => format!("{scheme}://{account}{host}/{path}"),
    };
    let in_query = |name: &str| OPTIONS.iter().any(|option| option.name == name && option.place == Place::Query);
    let query = options.iter().filter(|(name, _)| in_query(name));
    let query: Vec<_> = query.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    format!("{address}?{}", query.join("&"))
}

/// The settings from environment variables.
fn by_environment(backend: &str, options: &Pairs) -> Result<Settings> {
    let mut variables = options.clone();
    match backend {
        "memory" => {}
        "tls" => variables.extend([("backend", "etcd"), ("endpoints", "host"), ("tls", "true")]),
        "sentinel" => variables.extend([("backend", "redis"), ("endpoints", "host"), ("master", "main")]),
        "file" => {
            variables.push(("backend", "file"));
            if !options.iter().any(|(name, _)| *name == "directory") {
                variables.push(("directory", "/d"));
            }
        }
        backend => variables.push(("backend", backend)),
    }
    if ["etcd", "redis"].contains(&backend) && !options.iter().any(|(name, _)| *name == "socket") {
        variables.push(("endpoints", "host"));
    }
    let variables = variables
        .into_iter()
        .map(|(name, value)| (format!("SHOP_LOCKS_{}", name.to_ascii_uppercase()), OsString::from(value)));
    let config = Config::layered(Path::new("/nowhere/a.yaml"), "locks", "SHOP", variables)?;
    by_builder(LockManagerBuilder::default().config(config))
}

fn by_url(backend: &str, options: &Pairs) -> Result<Settings> {
    by_builder(LockManagerBuilder::default().url(url(backend, options)))
}

fn refused(outcome: Result<Settings>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.code(), "INVALID_CONFIG", "{error}");
    error.to_string()
}

fn cases(name: &'static str) -> impl Iterator<Item = &'static Case> {
    assert!(CASES.iter().any(|case| case.option == name), "no case for {name}");
    CASES.iter().filter(move |case| case.option == name)
}

#[test]
fn every_option_can_be_set_in_each_way_with_the_same_result() {
    for option in OPTIONS {
        for Case { backend, value, set, with, .. } in cases(option.name) {
            let options: Pairs = with.iter().copied().chain([(option.name, *value)]).collect();
            let settings = by_url(backend, &options).unwrap_or_else(|error| panic!("{}: {error}", option.name));
            assert!(option.is_set(&settings), "{}", option.name);
            assert_eq!(by_environment(backend, &options).unwrap(), settings, "{}", option.name);
            if let Some(set) = set {
                let builder = LockManagerBuilder::default().url(url(backend, &Pairs::new()));
                assert_eq!(by_builder(set(builder)).unwrap(), settings, "{}", option.name);
            }
        }
    }
}

#[test]
fn a_value_out_of_bounds_is_the_same_error_in_each_way() {
    for option in OPTIONS {
        for Case { backend, with, wrong, .. } in cases(option.name) {
            let Some((value, set, text)) = wrong else { continue };
            let mut options: Pairs = with.iter().copied().filter(|(name, _)| *name != "prefix").collect();
            match value.split_once("&prefix=") {
                Some((value, prefix)) => options.extend([(option.name, value), ("prefix", prefix)]),
                None => options.push((option.name, value)),
            }
            let builder = LockManagerBuilder::default().url(url(backend, &Pairs::new()));
            let wanted = format!("invalid configuration: {text}");
            assert_eq!(refused(by_builder(set(builder))), wanted);
            assert_eq!(refused(by_url(backend, &options)), wanted);
            assert_eq!(refused(by_environment(backend, &options)), wanted);
        }
    }
}

#[test]
fn an_option_of_another_backend_is_refused_and_the_backend_named() {
    for option in OPTIONS {
        for backend in [BackendKind::Memory, BackendKind::Etcd, BackendKind::Redis, BackendKind::File] {
            if option.backends.contains(&backend) {
                continue;
            }
            let word = backend.word();
            for Case { value, set, .. } in cases(option.name) {
                let options = vec![(option.name, *value)];
                let wanted = format!("invalid configuration: {}: not supported by {word}", option.name);
                assert_eq!(refused(by_environment(word, &options)), wanted);
                if option.place == Place::Query {
                    assert_eq!(refused(by_url(word, &options)), wanted);
                }
                if let Some(set) = set {
                    let builder = LockManagerBuilder::default().url(url(word, &Pairs::new()));
                    // An account or an identity: the first of its two options is named.
                    let error = refused(by_builder(set(builder)));
                    assert!(error.ends_with(&format!(": not supported by {word}")), "{error}");
                }
            }
        }
    }
    for url in ["memory://?min_replicas=0", "etcd://h?signal_lists=false"] {
        assert!(refused(by_builder(LockManagerBuilder::default().url(url))).contains("not supported by"), "{url}");
    }
}

#[test]
fn an_injected_client_has_the_options_of_its_backend() {
    let client = || redis::Client::open("redis://host").unwrap();
    let builder = || LockManagerBuilder::default().redis_client(client());
    assert_eq!(by_builder(builder().min_replicas(2)).unwrap().min_replicas, 2);
    assert!(refused(by_builder(builder().prefix("{a}"))).contains("prefix"));
    // Those of the connection are the client's.
    assert!(refused(by_builder(builder().credentials("joe", "secret"))).contains("username"));
}

#[test]
fn an_account_is_given_in_one_way() {
    let source = CredentialsSource::new(|| async { Err::<crate::credentials::Credentials, ()>(()) });
    let both = [("username", "joe"), ("password", "secret"), ("password_file", "/f")];
    for backend in ["etcd", "redis"] {
        let wanted = "invalid configuration: password_file: cannot be combined with password";
        assert_eq!(refused(by_url(backend, &both.to_vec())), wanted);
        assert_eq!(refused(by_environment(backend, &both.to_vec())), wanted);
        let builder = || LockManagerBuilder::default().url(url(backend, &Pairs::new()));
        assert_eq!(refused(by_builder(builder().credentials("joe", "secret").password_file("/f"))), wanted);

        assert_eq!(by_builder(builder().credentials_from(&source)).unwrap().credentials.as_ref(), Some(&source));
        for more in [builder().credentials("joe", "secret"), builder().password_file("/f")] {
            let error = refused(by_builder(more.credentials_from(&source)));
            assert!(error.contains("credentials_from: cannot be combined with"), "{error}");
        }
    }
    let error = refused(by_builder(LockManagerBuilder::default().credentials_from(&source)));
    assert!(error.ends_with("credentials_from: not supported by memory"), "{error}");
    assert!(refused(by_url("etcd", &vec![("password_file", "/f")])).contains("username: required"));
    let template = vec![("username", "joe"), ("password", ""), ("password_file", "/f")];
    assert!(by_environment("etcd", &template).unwrap().password.is_none(), "an empty variable is no password");
}

#[test]
fn a_backend_has_its_own_account() {
    let memory = || crate::api::connect::memory(None, &(Arc::new(crate::clock::SystemClock) as Arc<dyn Clock>));
    let with = || LockManagerBuilder::default().backend(memory());
    let source = CredentialsSource::new(|| async { Err::<crate::credentials::Credentials, ()>(()) });
    for (builder, option) in
        [(with().password_file("/run/secret"), "password_file"), (with().credentials_from(&source), "credentials_from")]
    {
        let error = refused(by_builder(builder));
        assert!(error.contains(option) && error.contains("own account"), "{error}");
    }
    // As in a URL.
    let empty = LockManagerBuilder::default().url("etcd://host").credentials("", "secret");
    assert!(refused(by_builder(empty)).contains("username"));
    assert!(
        by_builder(LockManagerBuilder::default().url("redis://host").credentials("", "")).unwrap().password.is_none()
    );
}

#[test]
fn what_the_builder_overrides_is_not_checked() {
    let builder = LockManagerBuilder::default().url("memory://?ttl=2days").ttl(MS);
    assert_eq!(by_builder(builder).unwrap().ttl, MS);
}

#[test]
fn the_table_of_the_documentation_is_that_of_the_options() {
    let page = include_str!("../../../docs/configuration.md");
    let table = page.split_once("| Option | Takes |").unwrap().1.lines().skip(2);
    let rows: Vec<Vec<_>> = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let names: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(names, OPTIONS.iter().map(|option| option.name).collect::<Vec<_>>());
    for (row, option) in rows.iter().zip(OPTIONS) {
        let &[_, takes, backends, default, method, _] = &row[..] else { panic!("{row:?}") };
        let takes = takes.replace("path", "file's path");
        assert!(option.takes().starts_with(&*takes), "{}: {takes}", option.name);
        let named: Vec<_> = backends.split(", ").map(str::to_ascii_lowercase).collect();
        let wanted: Vec<_> = option.backends.iter().map(|backend| backend.word()).collect();
        assert!(named == wanted || (backends == "all" && wanted.len() == 4), "{}: {backends}", option.name);
        assert_eq!(cases(option.name).any(|case| case.set.is_some()), method != "–", "{}: {method}", option.name);
        // What has no default value is not set by default.
        let mut settings = Settings::default();
        assert!(!option.is_set(&settings), "{}", option.name);
        if let Some(value) = default.strip_prefix('`').and_then(|value| value.strip_suffix('`'))
            && option.name != "prefix"
        {
            option.set(&mut settings, value).unwrap();
            assert_eq!(settings, Settings::default(), "{}: {default}", option.name);
        }
    }
}
