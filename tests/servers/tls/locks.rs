//! Locks work over TLS as without, and survive replaced certificates and authorities.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::authority::Authority;
use super::server::{Server, url};
use leasehold::{LockManager, Loss};
use support::folder::Folder;
use support::proxy::Proxy;
use support::{PATIENCE, eventually, in_the_background, lost};

#[test]
fn locks_work_over_tls() {
    let folder = Folder::new();
    let ours = Authority::new("ours");
    let server = Server::start(&ours, &ours.sign("server"));
    let files = ours.write(folder.path(), "client", &ours.sign("client"));
    // The certificate names the host, not the port, so a proxy is possible.
    let proxy = Proxy::start(server.address());
    let behind = LockManager::builder().url(url(proxy.address(), &files)).ttl(Duration::from_secs(6)).build();
    let (behind, direct) = (behind.wait().unwrap(), LockManager::connect(server.url(&files)).wait().unwrap());
    let guard = behind.lock("k").wait().unwrap();
    let guards = in_the_background(direct.lock("k"));
    eventually("the other one waits", || (direct.info("k").wait().unwrap()?.waiters == 1).then_some(()));
    assert_eq!(direct.info("k").wait().unwrap().unwrap().holders.len(), 1);
    eventually("renewed twice", || (behind.stats().renewals >= 2).then_some(()));
    proxy.reset_all();
    eventually("renewed on a new connection", || (behind.stats().renewals >= 4).then_some(()));
    assert!(!guard.is_lost());
    proxy.cut();
    assert_eq!(lost(&guard).0, Loss::Unreachable);
    let (next, _) = guards.recv_timeout(PATIENCE).unwrap();
    assert!(next.token() > guard.token());
}

#[test]
fn a_manager_survives_new_authorities_and_certificates() {
    let folder = Folder::new();
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let mut server = Server::start(&first, &first.sign("server"));
    let files = first.write(folder.path(), "client", &first.sign("client"));
    let connect = || LockManager::builder().url(server.url(&files)).ttl(Duration::from_secs(60)).build().wait();
    let (holder, waiter) = (connect().unwrap(), connect().unwrap());
    let guard = holder.lock("k").wait().unwrap();
    let (request, (got, guards)) = (waiter.lock("k"), channel());
    std::thread::spawn(move || got.send(request.wait()));
    eventually("the other one waits", || (holder.info("k").wait().unwrap()?.waiters == 1).then_some(()));

    // The server is first. Neither side trusts the other any more; this is temporary.
    server.restart(&second, &second.sign("server"));
    let start = Instant::now();
    let error = holder.ping().wait().unwrap_err();
    println!("with the old files, after {:?}: {error}", start.elapsed());
    assert_eq!(error.code(), "BACKEND");
    assert!(!guard.is_lost());

    second.write(folder.path(), "client", &second.sign("client"));
    let start = Instant::now();
    eventually("the holder is connected", || holder.ping().wait().ok());
    println!("back {:?} after the files were replaced", start.elapsed());
    assert!(!guard.is_lost());
    guard.unlock().wait().unwrap();
    let next = guards.recv_timeout(PATIENCE).unwrap().unwrap();
    println!("the waiter in {:?} after the files were replaced", start.elapsed());
    assert!(!next.is_lost());
    next.unlock().wait().unwrap();
}
