//! The order in which locks are granted.

use std::time::Instant;

use futures::FutureExt;
use futures::future::join_all;

use super::*;

#[test]
fn a_lock_goes_from_one_to_the_next_in_order() {
    run(async {
        let server = Server::start().await;
        let clients = join_all((0..5).map(|_| Client::new(&server, "p/"))).await;
        let first = clients[0].lock("k").await;
        let mut waiting = Vec::new();
        for (count, client) in clients.iter().enumerate().skip(1) {
            let mut next = client.lock("k").boxed();
            assert!((&mut next).now_or_never().is_none());
            let queued = clients[0].queued("k", count + 1);
            tokio::select! { biased; _ = &mut next => panic!("not its turn"), () = queued => {} }
            waiting.push(next);
        }
        let mut epoch = first.epoch;
        clients[0].release(&first).await;
        for (client, next) in clients[1..].iter().zip(waiting) {
            let grant = next.await;
            assert!(grant.epoch > epoch, "{} after {epoch}", grant.epoch);
            epoch = grant.epoch;
            client.release(&grant).await;
        }
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

#[test]
fn two_clients_hand_a_lock_over_quickly() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let start = Instant::now();
        let turns = |client| async move {
            let client: &Client = client;
            for _ in 0..200 {
                let grant = client.lock("k").await;
                client.release(&grant).await;
            }
        };
        futures::future::join(turns(&a), turns(&b)).await;
        // Watches that begin in the past would be served each 100 ms.
        println!("400 hand-overs in {:?}", start.elapsed());
        assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    });
}

#[test]
fn try_takes_what_is_free_and_leaves_nothing_otherwise() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let held = a.try_get("k", Mode::Exclusive).await.unwrap();
        assert!(b.try_get("k", Mode::Exclusive).await.is_none());
        assert!(b.try_get("k", Mode::Shared).await.is_none());
        assert_eq!(server.claims().len(), 1);
        a.release(&held).await;
        let read = b.try_get("k", Mode::Shared).await.unwrap();
        let also = a.try_get("k", Mode::Shared).await.unwrap();
        assert!(a.try_get("k", Mode::Exclusive).await.is_none());
        b.release(&read).await;
        a.release(&also).await;
        assert!(a.try_get("k", Mode::Exclusive).await.is_some());
    });
}

#[test]
fn try_after_an_unconfirmed_release_is_not_busy() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        let held = a.lock("k").await;
        let release = a.etcd.release(&held);
        let (released, again) = futures::future::join(release, a.try_get("k", Mode::Exclusive)).await;
        released.unwrap();
        assert!(again.unwrap().epoch > held.epoch);
    });
}

#[test]
fn the_next_claim_also_makes_an_unconfirmed_release() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        let held = a.lock("k").await;
        // Its future exists and is never polled: the request is not even sent.
        let release = a.etcd.release(&held);
        let next = a.lock("k").await;
        assert!(next.epoch > held.epoch);
        assert_eq!(server.claims().len(), 1);
        release.await.unwrap();
        assert_eq!(server.claims().len(), 1, "a late release touched its successor");
        a.release(&next).await;
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

#[test]
fn a_late_release_leaves_the_successor_alone() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let old = a.lock("k").await;
        a.release(&old).await;
        let new = b.lock("k").await;
        a.release(&old).await;
        assert_eq!(server.claims().len(), 1);
        b.release(&new).await;
    });
}

#[test]
fn readers_share_and_wait_behind_a_writer() {
    run(async {
        let server = Server::start().await;
        let clients = join_all((0..4).map(|_| Client::new(&server, "p/"))).await;
        let [a, b, writer, late] = &clients[..] else { unreachable!() };
        let (one, two) = (a.get("k", Mode::Shared).await, b.get("k", Mode::Shared).await);
        let mut write = writer.lock("k").boxed();
        tokio::select! { _ = &mut write => panic!("among readers"), () = a.queued("k", 3) => {} }
        let mut read = late.get("k", Mode::Shared).boxed();
        tokio::select! { _ = &mut read => panic!("overtook a writer"), () = a.queued("k", 4) => {} }
        assert!(late.try_get("k", Mode::Shared).await.is_none());
        a.release(&one).await;
        let still = tokio::time::timeout(Duration::from_millis(300), &mut write).await;
        assert!(still.is_err(), "one reader is left");
        b.release(&two).await;
        let written = write.await;
        assert!(written.epoch > two.epoch.max(one.epoch));
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut read).await.is_err());
        writer.release(&written).await;
        let read = read.await;
        assert!(read.epoch >= written.epoch);
        late.release(&read).await;
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

#[test]
fn a_waiter_behind_one_that_gives_up_is_not_let_in() {
    run(async {
        let server = Server::start().await;
        let clients = join_all((0..3).map(|_| Client::new(&server, "p/"))).await;
        let [a, b, c] = &clients[..] else { unreachable!() };
        let held = a.lock("k").await;
        let given_up = b.claim("k", Mode::Exclusive);
        {
            let mut second = b.etcd.acquire(&given_up, Wait::UntilGranted);
            tokio::select! { _ = &mut second => panic!("busy"), () = a.queued("k", 2) => {} }
        }
        let mut third = c.lock("k").boxed();
        tokio::select! { _ = &mut third => panic!("busy"), () = a.queued("k", 3) => {} }
        b.etcd.abort(&given_up).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut third).await.is_err());
        a.release(&held).await;
        c.release(&third.await).await;
    });
}

#[test]
fn keys_do_not_interfere() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        for key in ["a", "a/b", "ab", "a_info", "%2F", "/", "read", "%session", "鍵"] {
            a.try_get(key, Mode::Exclusive).await.unwrap_or_else(|| panic!("{key} is not free"));
        }
    });
}

#[test]
fn etcdctl_lock_and_leasehold_exclude_each_other() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "").await;
        let held = a.lock("job").await;
        let out = server.0.folder().join("out");
        let file = std::fs::File::create(&out).unwrap();
        let mut ctl = server.ctl_command(&["lock", "job", "echo", "in"]).stdout(file).spawn().unwrap();
        while a.etcd.inspect("job").await.unwrap().unwrap().waiters == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!a.etcd.inspect("job").await.unwrap().unwrap().foreign);
        assert_eq!(std::fs::read(&out).unwrap(), b"");
        let mut second = a.lock("job").boxed();
        assert!((&mut second).now_or_never().is_none());
        a.release(&held).await;
        let second = second.await;
        a.release(&second).await;
        assert!(ctl.wait().unwrap().success());
        assert_eq!(std::fs::read(&out).unwrap(), b"in\n");

        let mut ctl = server.ctl_command(&["lock", "job"]).stdout(Stdio::null()).spawn().unwrap();
        let info = loop {
            if let Some(info) = a.etcd.inspect("job").await.unwrap() {
                break info;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(info.foreign && info.token.is_none() && info.since.is_none() && info.remaining.is_some());
        assert!(a.try_get("job", Mode::Exclusive).await.is_none());
        assert!(a.try_get("job", Mode::Shared).await.is_none());
        let mut ours = a.lock("job").boxed();
        assert!((&mut ours).now_or_never().is_none());
        let pid = rustix::process::Pid::from_raw(ctl.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        ours.await;
        let _ = ctl.wait();
    });
}
