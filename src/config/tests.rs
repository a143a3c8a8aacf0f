use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::*;
use crate::support::folder::Folder;

/// Loads a file of this name and text under `locks`, with these variables.
fn load(name: &str, text: &str, variables: &[(&str, &str)]) -> Result<Config> {
    let folder = Folder::new();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    layered(&path, "locks", variables)
}

fn layered(path: &Path, section: &str, variables: &[(&str, &str)]) -> Result<Config> {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), OsString::from(value)));
    Config::layered(path, section, "SHOP", variables)
}

fn refused(loaded: Result<Config>) -> String {
    let error = loaded.unwrap_err();
    assert_eq!(error.code(), "INVALID_CONFIG", "{error}");
    error.to_string()
}

/// Every field of etcd, and every one other than by default.
fn full() -> Config {
    Config {
        backend: "etcd".into(),
        endpoints: vec!["one:2379".into(), "two".into()],
        username: Some("user".into()),
        password: Some("pass".into()),
        tls: true,
        ca: Some("ca.pem".into()),
        cert: Some("cert.pem".into()),
        key: Some("key.pem".into()),
        prefix: Some("p/".into()),
        name: Some("shop".into()),
        ttl: Duration::from_secs(10),
        timeout: Duration::from_millis(1500),
        retry_interval: Duration::from_millis(50),
        max_retries: 7,
        auto_renew: false,
        max_hold: Some(Duration::from_secs(90)),
        hand_over_time: Duration::ZERO,
        hand_over_times: 3,
        drop_wait: Duration::from_secs(2),
        ..Config::default()
    }
}

const YAML: &str = r#"
other: { ttl: 1s }
locks:
  backend: etcd
  endpoints: [one:2379, two]
  username: user
  password: pass
  tls: true
  ca: ca.pem
  cert: cert.pem
  key: key.pem
  prefix: p/
  name: shop
  ttl: 10s
  timeout: 1.5s
  retry_interval: 50ms
  max_retries: 7
  auto_renew: false
  max_hold: 1m 30s
  hand_over_time: 0s
  hand_over_times: 3
  drop_wait: 2s
"#;

#[test]
fn yaml_toml_and_the_environment_say_the_same() {
    assert_eq!(load("a.yaml", YAML, &[]).unwrap(), full());
    assert_eq!(load("a.yml", YAML, &[]).unwrap(), full());
    let fields = YAML.split_once("locks:\n").unwrap().1;
    let (mut toml, mut variables) = (String::from("[locks]\n"), Vec::new());
    for line in fields.lines() {
        let (field, value) = line.trim().split_once(": ").unwrap();
        let bare = value.starts_with(|c: char| c.is_ascii_digit()) && value.parse::<u32>().is_ok();
        toml += &match field {
            "endpoints" => "endpoints = [\"one:2379\", \"two\"]\n".to_owned(),
            _ if bare || ["true", "false"].contains(&value) => format!("{field} = {value}\n"),
            _ => format!("{field} = {value:?}\n"),
        };
        let value = value.trim_matches(['[', ']']).to_owned();
        variables.push((format!("SHOP_LOCKS_{}", field.to_ascii_uppercase()), value));
    }
    assert_eq!(load("a.toml", &toml, &[]).unwrap(), full());
    let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(layered(Path::new("/nowhere/a.toml"), "locks", &variables).unwrap(), full());
}

#[test]
fn yaml_and_toml_say_the_same_of_redis() {
    let wanted = Config {
        backend: "redis".into(),
        endpoints: vec!["one".into()],
        database: Some(3),
        min_replicas: 2,
        signal_lists: true,
        ..Config::default()
    };
    let yaml = "locks: { backend: redis, endpoints: [one], database: 3, min_replicas: 2, signal_lists: true }";
    assert_eq!(load("a.yaml", yaml, &[]).unwrap(), wanted);
    let toml =
        "[locks]\nbackend = \"redis\"\nendpoints = [\"one\"]\ndatabase = 3\nmin_replicas = 2\nsignal_lists = true";
    assert_eq!(load("a.toml", toml, &[]).unwrap(), wanted);
    let url = "redis://one/3?min_replicas=2&signal_lists=true";
    assert_eq!(wanted.settings().unwrap(), Settings::parse(url).unwrap());
}

#[test]
fn a_url_with_the_same_options_is_the_same() {
    let url = "etcds://user:pass@one:2379,two?ca=ca.pem&cert=cert.pem&key=key.pem&prefix=p/&name=shop&ttl=10s&timeout=1.5s\
               &retry_interval=50ms&max_retries=7&auto_renew=false";
    let settings = Settings {
        max_hold: Some(Duration::from_secs(90)),
        handover: Handover { max_time: Duration::ZERO, max_count: 3 },
        drop_wait: Duration::from_secs(2),
        ..Settings::parse(url).unwrap()
    };
    assert_eq!(full().settings().unwrap(), settings);
    assert_eq!(Config::default().settings().unwrap(), Settings::default());
    let named = Config { store: Some("jobs".into()), ..Config::default() };
    assert_eq!(named.settings().unwrap(), Settings::parse("memory://jobs").unwrap());
    let redis =
        |endpoint: &str| Config { backend: "redis".into(), endpoints: vec![endpoint.into()], ..Config::default() };
    let numbered = Config { database: Some(3), ..redis("[::1]") };
    assert_eq!(numbered.settings().unwrap(), Settings::parse("redis://[::1]:6379/3").unwrap());
    let watched = Config {
        master: Some("my main".into()),
        sentinel_username: Some("watcher".into()),
        sentinel_password: Some("secret".into()),
        database: Some(3),
        ..redis("[::1]")
    };
    let url = "redis+sentinel://[::1]:26379/my%20main/3?sentinel_username=watcher&sentinel_password=secret";
    assert_eq!(watched.settings().unwrap(), Settings::parse(url).unwrap());
    let of_cluster = Config { cluster: true, endpoints: vec!["a".into(), "b:1".into()], ..redis("") };
    assert_eq!(of_cluster.settings().unwrap(), Settings::parse("redis+cluster://a:6379,b:1").unwrap());
    let template = Config { sentinel_password: Some("".into()), ..watched.clone() };
    assert!(template.settings().unwrap().sentinel_password.is_none(), "a template without a value");
    let socket = Config { socket: Some("/run/redis.sock".into()), endpoints: Vec::new(), ..redis("") };
    assert_eq!(socket.settings().unwrap(), Settings::parse("redis+unix:///run/redis.sock").unwrap());
    let empty = Config { username: Some(String::new()), password: Some("".into()), ..redis("h") };
    assert_eq!(empty.settings().unwrap(), Settings::parse("redis://:@h").unwrap());
}

#[test]
fn the_environment_goes_before_the_file_and_the_file_before_the_defaults() {
    let text = "locks: { ttl: 10s, name: shop, endpoints: [a], backend: etcd }";
    let variables = [("SHOP_LOCKS_TTL", "20s"), ("SHOP_LOCKS_ENDPOINTS", "b, c:1,"), ("SHOP_LOCKS_PREFIX", "")];
    let loaded = load("a.yaml", text, &variables).unwrap();
    assert_eq!(loaded.ttl, Duration::from_secs(20));
    assert_eq!(loaded.name.as_deref(), Some("shop"));
    assert_eq!(loaded.endpoints, ["b", "c:1"]);
    assert_eq!(loaded.prefix.as_deref(), Some(""), "empty is none, not the default");
    assert_eq!(loaded.timeout, Config::default().timeout);
}

#[test]
fn texts_that_look_like_numbers_stay_as_they_are() {
    let variables = [("SHOP_LOCKS_USERNAME", "007"), ("SHOP_LOCKS_PASSWORD", "0x10"), ("SHOP_LOCKS_NAME", "1e3")];
    let text = "locks: { backend: etcd, endpoints: [a] }";
    let loaded = load("a.yaml", text, &variables).unwrap();
    assert_eq!(
        (&*loaded.username.unwrap(), loaded.password.unwrap().expose(), &*loaded.name.unwrap()),
        ("007", "0x10", "1e3")
    );
}

#[test]
fn what_is_not_there_is_as_by_default() {
    let nowhere = Path::new("/nowhere/a.yaml");
    assert_eq!(layered(nowhere, "locks", &[]).unwrap(), Config::default());
    for text in ["", "other: 1", "locks:", "locks: {}"] {
        assert_eq!(load("a.yaml", text, &[]).unwrap(), Config::default(), "{text:?}");
    }
    assert_eq!(load("a.toml", "", &[]).unwrap(), Config::default());
    // Other programs' variables, and those of another section.
    let others = [("SHOP_TTL", "1s"), ("LOCKS_TTL", "1s"), ("SHOP_LOCKSMITH", "x"), ("PATH", "/bin")];
    assert_eq!(layered(nowhere, "locks", &others).unwrap(), Config::default());
    assert_eq!(layered(nowhere, "", &[("SHOP_TTL", "1s")]).unwrap().ttl, Duration::from_secs(1));
    let without = Config::layered(nowhere, "", "", [("TTL".to_owned(), OsString::from("1s"))].into_iter());
    assert_eq!(without.unwrap(), Config::default());
}

#[test]
fn what_is_empty_is_not_there() {
    let file = "locks: { backend: memory, store: jobs }";
    let over = [("SHOP_LOCKS_BACKEND", "etcd"), ("SHOP_LOCKS_ENDPOINTS", "a"), ("SHOP_LOCKS_STORE", "")];
    assert_eq!(load("a.yaml", file, &over).unwrap().backend, "etcd");
    assert!(refused(load("a.yaml", file, &over[..2])).contains("store"));
}

#[test]
fn a_section_may_be_the_whole_file_or_lie_deeper() {
    let folder = Folder::new();
    let path = folder.path().join("a.toml");
    fs::write(&path, "ttl = \"10s\"").unwrap();
    assert_eq!(layered(&path, "", &[("SHOP_NAME", "x")]).unwrap().name.as_deref(), Some("x"));
    fs::write(&path, "[services.user-locks]\nttl = \"10s\"").unwrap();
    let loaded = layered(&path, "services.user-locks", &[("SHOP_SERVICES_USER_LOCKS_NAME", "x")]).unwrap();
    assert_eq!((loaded.ttl, loaded.name.as_deref()), (Duration::from_secs(10), Some("x")));
}

#[test]
fn errors_name_what_is_wrong() {
    for (text, word) in [
        ("locks: { tttl: 1s }", "tttl"),
        ("locks: { backend: etdc }", "etdc"),
        ("locks: { ttl: 10 }", "ttl"),
        ("locks: { ttl: fast }", "\"fast\""),
        ("locks: { ttl: 0s }", "ttl"),
        ("locks: { max_hold: 0s }", "max_hold"),
        ("locks: { max_retries: many }", "max_retries"),
        ("locks: { max_retries: -1 }", "max_retries"),
        ("locks: { hand_over_times: 1024 }", "1023"),
        ("locks: { auto_renew: perhaps }", "auto_renew"),
        ("locks: { endpoints: [a] }", "memory"),
        ("locks: { endpoints: { a: b } }", "endpoints"),
        ("locks: { backend: etcd }", "etcd"),
        ("locks: { backend: etcd, endpoints: ['a:x'] }", "port"),
        ("locks: { backend: etcd, endpoints: [a], store: s }", "store"),
        ("locks: { backend: etcd, endpoints: [a], database: 1 }", "database"),
        ("locks: { backend: etcd, endpoints: [a], ca: x }", "ca"),
        ("locks: { tls: true }", "tls"),
        ("locks: { username: u, password: p }", "username"),
        ("locks: 7", "locks"),
        ("locks: [", "a.yaml"),
        ("- a", "a.yaml"),
    ] {
        let error = refused(load("a.yaml", text, &[]));
        assert!(error.contains(word), "{text}: {error}");
    }
    let error = refused(load("a.yaml", "", &[("SHOP_LOCKS_TTTL", "1s")]));
    assert!(error.contains("tttl") && error.contains("retry_interval"), "{error}");
    let error = refused(load("a.yaml", "", &[("SHOP_LOCKS_MAX_RETRIES", "many")]));
    assert!(error.contains("SHOP_LOCKS_MAX_RETRIES"), "{error}");
    assert!(refused(load("a.ini", "", &[])).contains("a.ini"));
    assert!(refused(layered(Path::new("/"), "", &[])).contains('/'));
}

#[test]
fn nothing_shows_a_password() {
    let shown = format!("{:?}", Config { password: Some("hunter2".into()), ..full() });
    assert!(shown.contains("etcd") && shown.contains("drop_wait") && !shown.contains("hunter2"), "{shown}");
    for (name, text) in [
        ("a.toml", "[locks]\nbackend = \"redis://joe:hunter2@host\""),
        ("a.yaml", "locks: { backend: redis, endpoints: 'redis://joe:hunter2@host' }"),
        ("a.toml", "[locks]\npassword = \"hunter2"),
        ("a.toml", "[locks]\npassword = hunter2"),
        ("a.yaml", "locks:\n  password: \"hunter2"),
        ("a.yaml", "locks:\n  password: hunter2: x"),
        ("a.yaml", "locks:\n  password: { hunter: hunter2 }"),
        ("a.yaml", "locks: { password: hunter2 }"),
        ("a.yaml", "locks: { backend: etcd, endpoints: ['user:hunter2@host'] }"),
    ] {
        let error = refused(load(name, text, &[]));
        assert!(!error.contains("hunter2"), "{text}: {error}");
    }
}
