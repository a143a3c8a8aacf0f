//! Invalid certificates, unusable files and the wrong scheme are refused at once, with a clear error.

use std::time::{Duration, Instant};

use super::authority::{Authority, Files};
use super::server::{Server, url};
use leasehold::backend::ErrorKind;
use leasehold::doctor::{Level, examine};
use leasehold::{LockError, LockManager};
use support::all_texts;
use support::etcd::Etcd;
use support::folder::Folder;

/// The managers' timeout.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The limit for an immediate refusal, on a busy machine.
const FAST: Duration = Duration::from_secs(5);

/// The error of a manager that cannot connect, and the time until it.
fn refused(url: &str) -> (LockError, Duration) {
    let start = Instant::now();
    let error = LockManager::builder().url(url).timeout(TIMEOUT).build().wait().unwrap_err();
    let took = start.elapsed();
    println!("{} after {took:?}: {error}", error.code());
    (error, took)
}

fn kind(error: &LockError) -> ErrorKind {
    let LockError::Backend { kind, .. } = error else { panic!("{error:?}") };
    *kind
}

#[test]
fn certificates_are_checked_on_both_sides() {
    let folder = Folder::new();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = Server::start(&ours, &ours.sign("server"));
    let good = ours.write(folder.path(), "good", &ours.sign("client"));
    LockManager::connect(server.url(&good)).wait().unwrap().lock("k").wait().unwrap().unlock().wait().unwrap();

    let expired = Server::start(&ours, &ours.sign_expired("server"));
    let other_host = Server::start(&ours, &ours.sign_for_host("example.org"));
    let old = ours.write(folder.path(), "old", &ours.sign_expired("client"));
    let strange = ours.write(folder.path(), "strange", &theirs.sign("client"));
    let trusting_others = theirs.write(folder.path(), "trusting", &ours.sign("client"));
    let anonymous = format!("etcds://{}?ca={}", server.address(), good.ca.display());
    let trusting_the_systems = format!("etcds://{}", server.address());
    assert!(examine(server.url(&good)).wait().unwrap().level() < Level::Wrong);
    for (what, url, word) in [
        ("the client's has expired", server.url(&old), "refuses our certificate"),
        ("the client's is of another authority", server.url(&strange), "refuses our certificate"),
        ("the client has none", anonymous, "refuses our certificate"),
        ("the server's has expired", expired.url(&good), "expired"),
        ("the server's is another's", other_host.url(&good), "example.org"),
        ("the server's is of another authority", server.url(&trusting_others), "UnknownIssuer"),
        ("the server's is not of the system's authorities", trusting_the_systems, "UnknownIssuer"),
    ] {
        println!("{what}");
        let (error, took) = refused(&url);
        assert_eq!((error.code(), kind(&error)), ("BACKEND", ErrorKind::Denied), "{what}: {error}");
        assert!(took < FAST, "{what}: {took:?}");
        assert!(error.to_string().contains(word), "{what}: {error}");
        let report = examine(&url).wait().unwrap();
        let first = &report.findings[0];
        assert!(first.check == "connection" && first.found.contains(word), "{what}: {report:#?}");
        assert!(first.advice.as_deref().unwrap().contains("certificate"), "{what}: {report:#?}");
    }
}

#[test]
fn the_wrong_scheme_is_a_clear_error() {
    let folder = Folder::new();
    let ours = Authority::new("ours");
    let (secure, plain) = (Server::start(&ours, &ours.sign("server")), Etcd::start());
    let files = ours.write(folder.path(), "client", &ours.sign("client"));
    for (url, hint) in
        [(format!("etcd://{}", secure.address()), "etcds://"), (url(plain.address(), &files), "no TLS (etcd://)")]
    {
        // The server does not answer, like one behind a balancer that is starting: retried until the timeout.
        let start = Instant::now();
        let limit = Duration::from_secs(4);
        let error = LockManager::builder().url(url).timeout(limit).build().wait().unwrap_err();
        println!("after {:?}: {error}", start.elapsed());
        assert_eq!(kind(&error), ErrorKind::Unreachable);
        assert!(error.to_string().contains(hint), "{error}");
        assert!(start.elapsed() < limit + FAST);
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = Folder::new();
    let ours = Authority::new("ours");
    let server = Server::start(&ours, &ours.sign("server"));
    let good = ours.write(folder.path(), "good", &ours.sign("client"));
    let other = ours.write(folder.path(), "other", &ours.sign("client"));
    let secret = std::fs::read_to_string(&good.key).unwrap().lines().nth(1).unwrap().to_owned();
    let missing = folder.path().join("missing.pem");
    let garbage = folder.path().join("garbage.pem");
    std::fs::write(&garbage, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").unwrap();
    let cut = folder.path().join("cut.pem");
    std::fs::write(&cut, format!("-----BEGIN PRIVATE KEY-----\n{}\n", &secret[..20])).unwrap();
    let with = |change: &dyn Fn(&mut Files)| {
        let mut files = good.clone();
        change(&mut files);
        server.url(&files)
    };
    for (url, option, file) in [
        (with(&|files| files.ca = missing.clone()), "ca:", "missing.pem"),
        (with(&|files| files.cert = missing.clone()), "cert:", "missing.pem"),
        (with(&|files| files.key = missing.clone()), "key:", "missing.pem"),
        (with(&|files| files.ca = garbage.clone()), "ca:", "garbage.pem"),
        (with(&|files| files.ca = folder.path().into()), "ca:", ""),
        // Certificate and key swapped, and the key of another certificate.
        (with(&|files| files.cert = good.key.clone()), "cert:", "good-key.pem"),
        (with(&|files| files.key = good.cert.clone()), "key:", "good-cert.pem"),
        (with(&|files| files.key = cut.clone()), "key:", "cut.pem"),
        (with(&|files| files.key = other.key.clone()), "key:", "other-key.pem"),
    ] {
        let (error, took) = refused(&url);
        assert_eq!(error.code(), "INVALID_CONFIG", "{error}");
        assert!(error.to_string().contains(option) && error.to_string().contains(file), "{error}");
        assert!(took < FAST, "{took:?}");
        assert!(!all_texts(&error).contains(&secret[..20]), "a secret in {error:?}");
    }
    // An option without TLS, or half an identity, is refused before any file is read.
    for url in [
        format!("etcd://{}?ca={}", server.address(), good.ca.display()),
        format!("etcds://{}?cert={}", server.address(), good.cert.display()),
    ] {
        assert_eq!(refused(&url).0.code(), "INVALID_CONFIG");
    }
}
