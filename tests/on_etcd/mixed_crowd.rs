//! A mixed crowd on one key: processes of leasehold and `etcdctl lock` processes, for `LEASEHOLD_SOAK` seconds or a few.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions};
use leasehold::LockManager;
use support::child::{self, Child};
use support::crowd::lock_repeatedly;
use support::etcd::Etcd;
use support::folder::Folder;
use support::history::{History, What};
use support::process::Process;
use support::{eventually, soak};

/// The number of processes of each kind, and of threads in each of leasehold's.
const OURS: usize = 3;
const THREADS: usize = 3;
const THEIRS: usize = 3;

/// The duration of each hold.
const HOLD: Duration = Duration::from_millis(2);

#[test]
fn a_mixed_crowd_never_overlaps_and_keeps_its_order() {
    let time = soak().unwrap_or(Duration::from_secs(12));
    let etcd = Etcd::start();
    let folder = Folder::new();
    let history = folder.path().join("history");
    let mut ours: Vec<_> = (0..OURS)
        .map(|_| Child::of_this_test("mixed_crowd::locks_repeatedly", &[&etcd.url(), history.to_str().unwrap()]))
        .collect();
    ours.iter_mut().for_each(|child| child.expect("ready"));
    let ended = AtomicBool::new(false);
    let theirs: usize = std::thread::scope(|scope| {
        let (etcd, history, ended) = (&etcd, &history, &ended);
        let their_rounds = move || {
            let mut rounds = 0;
            while !ended.load(Ordering::SeqCst) {
                etcdctl_locks(etcd, history);
                rounds += 1;
            }
            rounds
        };
        let theirs: Vec<_> = (0..THEIRS).map(|_| scope.spawn(their_rounds)).collect();
        ours.iter_mut().for_each(|child| child.send("go"));
        // A fixed pause: this is a soak.
        std::thread::sleep(time);
        ended.store(true, Ordering::SeqCst);
        ours.iter_mut().for_each(|child| child.send("stop"));
        theirs.into_iter().map(|their| their.join().unwrap()).sum()
    });
    for child in ours {
        assert!(child.finish());
    }
    let history = History::open(history);
    let holds = history.records().iter().filter(|record| matches!(record.what, What::Acquired { .. })).count();
    println!("{holds} holds, {theirs} of them etcdctl's");
    // All of them together: no two holds at a time, and tokens grow.
    history.assert_clean(holds);
    // Each kind gets the lock all the time; etcdctl needs some time to start.
    let seconds = time.as_secs() as usize;
    assert!(theirs > seconds && holds - theirs > 5 * seconds);
    assert_eq!(etcd.keys("crowd/"), [""; 0]);
    let claims = in_order(&etcd);
    println!("{claims} claims, in their order");
    assert!(claims > 5 * seconds);
}

/// Locks once with `etcdctl lock`, which runs a command while it holds the lock.
fn etcdctl_locks(etcd: &Etcd, history: &Path) {
    let exe = std::env::current_exe().unwrap();
    let mut process = Process::spawn("etcdctl", |command| {
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", etcd.endpoint()));
        command.args(["lock", "--ttl=10", "--", "crowd"]).arg(exe);
        child::play(command, "mixed_crowd::holds_for_etcdctl", &[history.to_str().unwrap()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
    });
    let status = eventually("etcdctl has had the lock", || process.ended());
    assert!(status.success(), "{status}");
}

/// Asserts that the claims were deleted in the order of their creation. Returns their number.
fn in_order(etcd: &Etcd) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect([etcd.endpoint()], None).await.unwrap();
        let last = client.put("last", "", None).await.unwrap().header().unwrap().revision();
        // All events from the beginning on.
        let options = WatchOptions::new().with_all_keys().with_prev_key().with_start_revision(1);
        let mut watch = client.watch("", Some(options)).await.unwrap();
        let mut births = Vec::new();
        loop {
            let answer = watch.message().await.unwrap().expect("the stream continues");
            for event in answer.events() {
                let now = event.kv().unwrap();
                if event.event_type() == EventType::Delete && now.key().starts_with(b"crowd/") {
                    births.push(event.prev_kv().unwrap().create_revision());
                }
                if now.mod_revision() == last {
                    let out_of_turn = births.windows(2).find(|pair| pair[0] >= pair[1]);
                    assert_eq!(out_of_turn, None, "create revisions in the order of the deletions");
                    return births.len();
                }
            }
        }
    })
}

#[test]
#[ignore = "a child of another test"]
fn holds_for_etcdctl() {
    let Some([history]) = child::role().map(|arguments| <[String; 1]>::try_from(arguments).unwrap()) else { return };
    // The revision at which it got the lock, from which leasehold's tokens are made.
    let revision: u64 = std::env::var("ETCD_LOCK_REV").unwrap().parse().unwrap();
    let hold = History::open(history).acquired_elsewhere("crowd", Some(revision << 10));
    std::thread::sleep(HOLD);
    hold.released();
}

#[test]
#[ignore = "a child of another test"]
fn locks_repeatedly() {
    let Some([url, history]) = child::role().map(|arguments| <[String; 2]>::try_from(arguments).unwrap()) else {
        return;
    };
    let history = History::open(history);
    let manager = LockManager::connect(format!("{url}?prefix=&ttl=10s")).wait().unwrap();
    lock_repeatedly(&manager, &history, THREADS, HOLD, Duration::ZERO);
}
