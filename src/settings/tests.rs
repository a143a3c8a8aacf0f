use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;

use super::*;
use crate::support::walk::{any_of, any_text, text, walk};

/// Parses and checks, as a builder does.
fn parse(url: &str) -> Result<Settings> {
    let settings = Settings::parse(url)?;
    validate(&settings, settings.backend)?;
    Ok(settings)
}

fn parsed(url: &str) -> Settings {
    parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn refused(url: &str) -> String {
    let error = parse(url).expect_err(url);
    assert_eq!(error.code(), "INVALID_CONFIG", "{url}");
    error.to_string()
}

#[test]
fn addresses_of_all_schemes() {
    for (url, tls, endpoints) in [
        ("etcd://127.0.0.1:2379", false, &["127.0.0.1:2379"][..]),
        ("etcd://a", false, &["a:2379"]),
        ("ETCD://a/", false, &["a:2379"]),
        ("etcds://a:1,b,c:3", true, &["a:1", "b:2379", "c:3"]),
        ("etcd://[::1]:4,[fe80::1]", false, &["[::1]:4", "[fe80::1]:2379"]),
        ("redis://localhost", false, &["localhost:6379"]),
        ("rediss://redis.example.org:7", true, &["redis.example.org:7"]),
        ("redis://[::1]/", false, &["[::1]:6379"]),
        ("redis+sentinel://a,b:1,[::1]/main", false, &["a:26379", "b:1", "[::1]:26379"]),
        ("REDISS+Sentinel://a/main/", true, &["a:26379"]),
        ("redis+cluster://a,b:1", false, &["a:6379", "b:1"]),
        ("rediss+cluster://a/0", true, &["a:6379"]),
        ("memory://", false, &[]),
        ("file:///run/leasehold", false, &[]),
    ] {
        let settings = parsed(url);
        assert_eq!(
            (settings.tls, &settings.endpoints[..]),
            (tls, &endpoints.iter().map(|e| e.to_string()).collect::<Vec<_>>()[..]),
            "{url}"
        );
    }
    assert_eq!(parsed("memory://"), Settings::default());
    assert_eq!(parsed("memory://my%20store").store.as_deref(), Some("my store"));
    let in_files = parsed("FILE:///my%20locks/a?mode=0770");
    assert_eq!((in_files.directory.as_deref(), in_files.mode), (Some(Path::new("/my locks/a")), Some(0o770)));
    assert_eq!(parsed("file:///l?mode=700").mode, Some(0o700));
    assert_eq!(parsed("redis://h/3").database, Some(3));
    let watched = parsed("redis+sentinel://u:p@h/my%20main%2F1/3?sentinel_username=s%40&sentinel_password=hunter2");
    assert_eq!((watched.master.as_deref(), watched.database, watched.cluster), (Some("my main/1"), Some(3), false));
    assert_eq!((watched.username.as_deref(), watched.sentinel_username.as_deref()), (Some("u"), Some("s@")));
    assert_eq!(watched.sentinel_password.as_ref().map(Secret::expose), Some("hunter2"));
    assert!(!format!("{watched:?}").contains("hunter2"));
    let of_cluster = parsed("redis+cluster://:p@h?min_replicas=1");
    assert_eq!((of_cluster.master, of_cluster.cluster, of_cluster.min_replicas), (None, true, 1));
    assert_eq!(parsed("redis+unix:///run/my%20redis.sock").unix_path.as_deref(), Some(Path::new("/run/my redis.sock")));
}

#[test]
fn credentials_are_decoded_and_not_shown() {
    let settings = parsed("etcds://us%40er:p%3Ass+%2F@h");
    assert_eq!(settings.username.as_deref(), Some("us@er"));
    assert_eq!(settings.password.as_ref().map(Secret::expose), Some("p:ss+/"));
    assert!(!format!("{settings:?}").contains("p:ss"));
    assert!(format!("{settings:?}").contains("***"));
    let settings = parsed("redis://:secret@h");
    assert_eq!((settings.username.as_deref(), settings.password.as_ref().map(Secret::expose)), (None, Some("secret")));
    assert_eq!(parsed("redis://u:@h").password.as_ref().map(Secret::expose), Some(""));
    assert_eq!(parsed("etcd://u:a:b@h").password.as_ref().map(Secret::expose), Some("a:b"));
    for nothing in ["etcd://@h", "etcd://:@h", "redis://:@h"] {
        assert_eq!((parsed(nothing).username, parsed(nothing).password), (None, None));
    }
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let settings = parsed("etcd://h");
    assert_eq!((settings.ttl, settings.timeout), (Duration::from_secs(30), Duration::from_secs(5)));
    assert_eq!((settings.retry_interval, settings.max_retries), (Duration::from_millis(100), 0));
    assert_eq!((settings.auto_renew, settings.max_hold, settings.min_replicas), (true, None, 0));
    assert_eq!((settings.handover.max_time, settings.handover.max_count), (Duration::from_millis(10), 1023));
    assert_eq!(settings.drop_wait, Duration::from_secs(1));
}

#[test]
fn options_are_the_same_for_all_schemes() {
    for address in ["memory://n", "etcd://h", "redis://h", "redis+unix:///s"] {
        let settings = parsed(&format!(
            "{address}?prefix=my%2Flocks%26+/&ttl=10s&timeout=1.5s&name=user-service.dlock&retry_interval=50ms&max_retries=7&auto_renew=false"
        ));
        assert_eq!(settings.prefix(settings.backend), "my/locks&+/");
        assert_eq!(settings.ttl, Duration::from_secs(10));
        assert_eq!(settings.timeout, Duration::from_millis(1500));
        assert_eq!(settings.name.as_deref(), Some("user-service.dlock"));
        assert_eq!(settings.retry_interval, Duration::from_millis(50));
        assert_eq!((settings.max_retries, settings.auto_renew), (7, false));
    }
    let tls = parsed("etcds://h?ca=/etc/ca.pem&cert=c%20d.pem&key=k.pem");
    assert_eq!(tls.ca.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!((tls.cert.as_deref(), tls.key.as_deref()), (Some(Path::new("c d.pem")), Some(Path::new("k.pem"))));
    assert!(
        parsed("redis://h?signal_lists=true").signal_lists
            && parsed("redis://h?signal_lists=true&prefix=lock:a/").signal_lists
    );
    assert_eq!(parsed("memory://n?name=me@host").name.as_deref(), Some("me@host"));
    assert_eq!(parsed("memory://n?").ttl, Duration::from_secs(30));
}

#[test]
fn a_prefix_is_the_default_or_none_or_the_one_given() {
    for (url, prefix) in [
        ("etcd://h", "leasehold/"),
        ("redis://h", "lock:"),
        ("memory://h", ""),
        ("etcd://h?prefix=", ""),
        ("redis://h?prefix=", ""),
        ("redis://h?prefix=a", "a"),
    ] {
        assert_eq!(parsed(url).prefix(parsed(url).backend), prefix, "{url}");
    }
}

#[test]
fn an_error_names_the_word() {
    for (url, word) in [
        ("", "scheme"),
        ("etcd:h", "scheme"),
        ("127.0.0.1:2379", "scheme"),
        ("http://h", "http"),
        ("etcd ://h", "unknown scheme"),
        ("etcd://", "host: missing"),
        ("etcd://:2379", "host: missing"),
        ("etcd://a,,b", "host: missing"),
        ("etcd://a:", "port"),
        ("etcd://a:b", "port"),
        ("etcd://a:0", "port"),
        ("etcd://a:65536", "port"),
        ("etcd://a:+1", "port"),
        ("etcd://a:1:2", "port"),
        ("etcd://::1", "host"),
        ("etcd://a b", "host: \"a b\""),
        ("etcd://a%20b", "host: \"a%20b\""),
        ("etcd://[::1", "brackets"),
        ("etcd://[::1]2379", "host"),
        ("etcd://[nope]", "IPv6"),
        ("etcd://h/path", "path"),
        ("redis://h/first", "database"),
        ("redis://h//1", "database"),
        ("redis://h/-1", "database"),
        ("redis://h/99999999999", "database"),
        ("redis+unix://h/s", "redis+unix"),
        ("redis+unix://", "redis+unix"),
        ("redis+unix:///%zz", "redis+unix"),
        ("memory://a/b", "memory"),
        ("file://", "file: expects a path and no host"),
        ("file://host/run", "file: expects a path and no host"),
        ("file:///", "file: expects a path"),
        ("file:///%zz", "file: invalid percent escape"),
        ("file:///l?mode=0777", "mode: \"0777\" is not 0700, or 0770 for a group"),
        ("file:///l?mode=777777", "mode"),
        ("file:///l?mode=rwx", "mode"),
        ("file:///l?min_replicas=1", "min_replicas: not supported by file"),
        ("memory://?mode=0700", "mode: not supported by memory"),
        ("memory://%f", "memory"),
        ("memory://u:p@n", "username"),
        ("etcd://u:p%@h", "password"),
        ("etcd://u%ff:p@h", "username"),
        ("etcd://u@h", "password"),
        ("etcd://:p@h", "username"),
        ("etcd://u:p@a,u:p@b", "%40"),
        ("etcd://h#f", "#"),
        ("etcd://h?tttl=3s", "tttl"),
        ("etcd://h?TTL=3s", "TTL"),
        ("etcd://h?ttl=1s&ttl=2s", "ttl: given twice"),
        ("etcd://h?ttl", "ttl"),
        ("etcd://h?ttl=", "ttl"),
        ("etcd://h?ttl=30", "ttl"),
        ("etcd://h?ttl=0s", "ttl"),
        ("etcd://h?ttl=25h", "ttl"),
        ("etcd://h?ttl=-1s", "ttl"),
        ("etcd://h?timeout=0s", "timeout"),
        ("etcd://h?timeout=soon", "soon"),
        ("etcd://h?retry_interval=0ms", "retry_interval"),
        ("etcd://h?max_retries=-1", "max_retries"),
        ("etcd://h?max_retries=+1", "max_retries"),
        ("etcd://h?max_retries=4294967296", "max_retries"),
        ("etcd://h?auto_renew=yes", "auto_renew"),
        ("etcd://h?prefix=%", "prefix"),
        ("etcd://h?prefix=%00", "prefix"),
        ("etcd://h?prefix=%0a", "prefix"),
        ("etcd://h?pre%fix=a", "pre%fix"),
        ("redis://h?prefix={a}", "prefix"),
        ("redis://h?signal_lists=yes", "signal_lists"),
        ("redis://h?signal_lists=true&prefix=a", "signal_lists"),
        ("redis://h?signal_lists=true&prefix=", "signal_lists"),
        ("etcd://h?name=", "name"),
        ("etcd://h?name=a%0ab", "name"),
        ("etcd://h?ca=/x", "ca"),
        ("redis://h?cert=/x&key=/y", "cert"),
        ("etcds://h?ca=", "ca"),
        ("etcds://h?ca=%00", "ca"),
        ("etcds://h?cert=/x", "key"),
        ("etcds://h?key=/x", "cert"),
        ("etcd://h?=x", "unknown option \"\""),
        ("redis://a,b", "redis+sentinel://host[:26379][,host…]/master[/database] or redis+cluster://host"),
        ("redis-sentinel://h:26379,h2#main", "redis+sentinel://host[:26379][,host…]/master"),
        ("rediss-sentinel://:hunter2@h/0#main", "redis+sentinel://host"),
        ("redis-cluster://h", "redis+cluster://host"),
        ("redis+sentinel://h", "master: missing; the URL is redis+sentinel://host"),
        ("redis+sentinel://h/", "master: missing"),
        ("redis+sentinel://h//0", "master: missing"),
        ("redis+sentinel://h/%zz", "master: invalid percent escape"),
        ("redis+sentinel://h/%00", "master: must not contain control characters"),
        ("redis+sentinel://h/main/first", "database"),
        ("redis+sentinel://h/main/0/1", "database"),
        ("redis+sentinel:///main", "host: missing"),
        ("redis+sentinel://a,/main", "host: missing"),
        ("redis+sentinel://a:0/main", "port"),
        ("redis+sentinel://h/main?sentinel_username=u", "sentinel_password: required"),
        ("redis+sentinel://h/main?sentinel_username=&sentinel_password=p", "sentinel_username: must not be empty"),
        ("redis+sentinel://u@h/main", "password: required"),
        ("redis+cluster://", "host: missing"),
        ("redis+cluster://a,,b", "host: missing"),
        ("redis+cluster://h/1", "database: a cluster has database 0 only"),
        ("redis+cluster://h/main", "database"),
        ("redis+cluster://h?signal_lists=true", "signal_lists: not supported on a cluster"),
        ("redis+cluster://h?sentinel_password=p", "sentinel_password: requires"),
        ("redis://h?sentinel_password=p", "sentinel_password: requires"),
        ("redis://h?sentinel_username=u&sentinel_password=p", "sentinel_username: requires"),
        ("etcd://h?sentinel_password=p", "sentinel_password: not supported by etcd"),
    ] {
        let error = refused(url);
        assert!(error.contains(word), "{url}: {error}");
    }
}

#[test]
fn a_malformed_url_does_not_give_its_password_away() {
    for password in [
        "hunter2",
        "hun/ter2",
        "hun?ter2",
        "hun#ter2",
        "hun@ter2",
        "hun%ter2",
        "hun:ter2",
        "hun ter2",
        "hun[ter2",
        "hun,ter2",
        "1?ttl=hunter2",
        "1?hunter2=1",
        "1,hun]ter2",
        "1/2?hunter2",
    ] {
        for template in [
            "etcd://user:PW@host",
            "redis://user:PW@host/0",
            "rediss://user:PW@",
            "etcd://user:PW@host:bad",
            "etcd:/user:PW@host",
            "user:PW@host:1",
            "user:PW@etcd://host",
            "etcd://user:PW@host?bad=1",
            "etcd://user:PW@host?ttl=bad",
            "etcd://user:PW@:1",
            "etcd://user:PW@a b",
            "memory://user:PW@host",
            "redis+unix://user:PW@host/s",
            "redis+sentinel://user:PW@host/main",
            "redis+sentinel://host/main?sentinel_password=PW&bad=1",
            "redis+sentinel://host/main?sentinel_password=%zzPW",
            "redis-sentinel://user:PW@host#main",
            "rediss+cluster://user:PW@host,host/1",
            "nope://user:PW@host",
            "etcd://:PW@host",
            "etcd://user:PW@a,user:PW@b",
            "etcd://user:PW@%zz",
            "PW",
            "://:PW@",
            "etcd://user:PW",
        ] {
            let url = template.replace("PW", password);
            match parse(&url) {
                Err(error) => {
                    let text = format!("{error} {error:?}");
                    assert!(!text.contains(password), "{url}: {text}");
                    if url.contains('@') {
                        assert!(!text.contains("ter2"), "{url}: {text}");
                    }
                }
                // Here the password is well-formed, or ends at its "@" and the rest is the host.
                Ok(settings) => {
                    assert!(url.ends_with("@ter2") || !format!("{settings:?}").contains("ter2"), "{url}");
                }
            }
        }
    }
}

#[test]
fn a_builder_is_checked_like_a_url() {
    let second = Duration::from_secs(1);
    let good = parsed("etcd://h");
    assert!(validate(&good, good.backend).is_ok());
    let check = |settings: &Settings| validate(settings, settings.backend).and(check_ttl(settings.ttl, second));
    type Change = fn(&mut Settings);
    let changes: &[(Change, &str)] = &[
        (|s| s.ttl = Duration::from_millis(999), "ttl"),
        (|s| s.ttl = Duration::from_secs(86_401), "ttl"),
        (|s| s.timeout = Duration::ZERO, "timeout"),
        (|s| s.max_hold = Some(Duration::ZERO), "max_hold"),
        (|s| s.handover.max_count = 1024, "handover"),
        (|s| s.endpoints.clear(), "etcd"),
        (|s| s.backend = BackendKind::Memory, "memory"),
        (|s| s.database = Some(1), "database"),
        (|s| s.unix_path = Some("/s".into()), "etcd"),
        (|s| s.cluster = true, "cluster: not supported by etcd"),
        (|s| s.master = Some("main".into()), "master: not supported by etcd"),
        (|s| s.sentinel_password = Some("p".into()), "sentinel_password: not supported by etcd"),
        (|s| s.prefix = Some("p".repeat(1025)), "prefix"),
        (|s| s.prefix = Some("p\n".into()), "prefix"),
        (|s| s.name = Some("n\u{1b}".into()), "name"),
        (|s| s.name = Some("\u{202e}n".into()), "name"),
    ];
    for (change, word) in changes {
        let mut settings = good.clone();
        change(&mut settings);
        let error = check(&settings).unwrap_err();
        assert!(error.code() == "INVALID_CONFIG" && error.to_string().contains(word), "{error}");
    }
    let several = Settings { backend: BackendKind::Redis, cluster: true, ..good.clone() };
    assert!(check(&several).is_ok());
    let changes: &[(Change, &str)] = &[
        (|s| s.master = Some("main".into()), "master: a cluster has no sentinels"),
        (|s| s.unix_path = Some("/s".into()), "redis: expects at least one host of the cluster"),
        (|s| s.endpoints.clear(), "redis: expects at least one host of the cluster"),
        (|s| s.database = Some(1), "database: a cluster has database 0 only"),
        (|s| (s.cluster, s.master) = (false, Some(String::new())), "master: must not be empty"),
        (
            |s| (s.cluster, s.master, s.unix_path) = (false, Some("main".into()), Some("/s".into())),
            "redis: expects at least one host of a sentinel",
        ),
    ];
    for (change, word) in changes {
        let mut settings = several.clone();
        change(&mut settings);
        let error = check(&settings).unwrap_err();
        assert!(error.code() == "INVALID_CONFIG" && error.to_string().contains(word), "{error}");
    }
    let off = Settings { handover: Handover { max_time: Duration::ZERO, max_count: 0 }, ..good };
    assert!(validate(&off, off.backend).is_ok());
    assert!(check_ttl(second, second).is_ok() && check_ttl(options::MAX_TTL, second).is_ok());
}

/// Percent-encodes all but letters and digits.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

const CASES: u64 = 256;

const SCHEMES: [&str; 9] =
    ["memory", "etcd", "etcds", "redis", "rediss", "redis+unix", "redis+sentinel", "rediss+cluster", "redis-sentinel"];

/// Letters and digits.
const PLAIN: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

/// A part of a URL, with what separates and encodes such parts.
fn any_part(rng: &mut StdRng, more: &str, length: std::ops::Range<usize>) -> String {
    text(rng, &format!("{PLAIN}:/?#@%&=+,.[{more}"), length)
}

#[test]
fn no_text_makes_it_panic() {
    walk(CASES, |rng| {
        let _ = parse(&any_text(rng, 0..100));
    });
}

#[test]
fn no_url_makes_it_panic() {
    walk(CASES, |rng| {
        let (scheme, rest) = (any_of(rng, &SCHEMES), any_part(rng, "]é", 0..41));
        let _ = parse(&format!("{scheme}://{rest}"));
    });
}

#[test]
fn users_passwords_and_prefixes_survive_the_encoding() {
    walk(CASES, |rng| {
        let (user, password) = (any_text(rng, 1..21), any_text(rng, 0..21));
        let (prefix, name) = (any_text(rng, 0..21).replace('{', ""), any_text(rng, 1..21));
        for address in ["etcd://UP@h", "rediss://UP@h/1", "redis+unix://UP@/s"] {
            let url = address.replace("UP", &format!("{}:{}", encoded(&user), encoded(&password)));
            let settings = parsed(&format!("{url}?prefix={}&name={}", encoded(&prefix), encoded(&name)));
            assert_eq!(settings.username.as_deref(), Some(&*user));
            assert_eq!(settings.password.as_ref().map(Secret::expose), Some(&*password));
            assert_eq!(settings.prefix(settings.backend), &*prefix);
            assert_eq!(settings.name.as_deref(), Some(&*name));
        }
    });
}

#[test]
fn no_password_leaks() {
    walk(CASES, |rng| {
        let scheme = any_text(rng, 0..6);
        let scheme = any_of(rng, &[SCHEMES.as_slice(), &[&scheme]].concat());
        let (before, rest) = (any_text(rng, 0..5), any_part(rng, "", 0..21));
        let salt = text(rng, "abcdefghijklmnopqrstuvwxyz/?#@%:,[ &=", 0..7);
        // Whatever separators the secret has in it, each of its halves stays out of sight.
        let secret = format!("hun{salt}ter2");
        let url = format!("{scheme}://{before}:{secret}@{rest}");
        match parse(&url) {
            Err(error) => assert!(!format!("{error} {error:?}").contains("ter2"), "{url}: {error}"),
            Ok(settings) => assert!(!format!("{settings:?}").contains("ter2"), "{url}"),
        }
    });
}
