//! A mixed crowd on one key: processes of leasehold and of each other client, for `LEASEHOLD_SOAK` seconds or a few.

use std::time::Duration;

use leasehold::LockManager;
use leasehold_interop_tests::client::{Client, HOLD, Kind, PAUSE};
use support::child::{self, Child};
use support::clusters::RedisCluster;
use support::crowd::lock_repeatedly;
use support::folder::Folder;
use support::history::{History, Violation, What, judge};
use support::redis::Redis;
use support::soak;

/// The number of leasehold's processes, and of threads in each.
const OURS: usize = 2;
const THREADS: usize = 2;

/// Processes of leasehold and of the other clients, each with its URL.
fn mixed_crowd(url: &str, others: &[(Kind, String)]) {
    let time = soak().unwrap_or(Duration::from_secs(10));
    let folder = Folder::new();
    let history = History::open(folder.path().join("history"));
    let mut ours: Vec<_> =
        (0..OURS).map(|_| Child::of_this_test("locks_repeatedly", &[url, history.path().to_str().unwrap()])).collect();
    ours.iter_mut().for_each(|child| child.expect("ready"));
    let mut theirs: Vec<_> = others.iter().map(|(kind, url)| Client::start(*kind, url, "lock:crowd")).collect();
    ours.iter_mut().for_each(|child| child.send("go"));
    theirs.iter_mut().for_each(|client| client.begin_to_crowd(history.path(), "crowd", time));
    // A fixed pause: this is a soak.
    std::thread::sleep(time);
    // Leasehold's processes continue until then: clients that wait for a signal get it from them.
    let turns: Vec<_> = theirs.iter_mut().map(Client::holds).collect();
    ours.iter_mut().for_each(|child| child.send("stop"));
    for child in ours {
        assert!(child.finish());
    }
    let count = |is: fn(&What) -> bool| history.records().iter().filter(|record| is(&record.what)).count();
    let our_turns = count(|what| matches!(what, What::Acquired { .. }));
    println!(
        "{our_turns} holds of ours, {:?}",
        others.iter().map(|(kind, _)| kind.word()).zip(&turns).collect::<Vec<_>>()
    );
    assert_eq!(count(|what| *what == What::AcquiredWithoutToken), turns.iter().sum::<usize>());
    // All of them together: no two holds at a time, and leasehold's tokens grow.
    history.assert_clean(our_turns + turns.iter().sum::<usize>());
    let seconds = time.as_secs() as usize;
    assert!(our_turns > 5 * seconds && turns.iter().all(|turns| *turns > seconds), "a client is starved");
}

#[test]
fn a_mixed_crowd_never_overlaps_and_all_make_progress() {
    let server = Redis::start();
    let others = Kind::ALL.map(|kind| (kind, server.url()));
    mixed_crowd(&format!("{}?signal_lists=true", server.url()), &others);
    assert_eq!(server.cli(&["EXISTS", "lock:crowd"]), "0");
}

#[test]
fn a_mixed_crowd_in_a_cluster_never_overlaps_and_all_make_progress() {
    let cluster = RedisCluster::start_with(0, &[]);
    let others = [0, 1].map(|place| (Kind::RedisPyCluster, cluster.nodes()[place].url()));
    mixed_crowd(&cluster.url(), &others);
}

#[test]
fn clients_that_do_not_exclude_one_another_are_detected() {
    let server = Redis::start();
    let folder = Folder::new();
    let history = History::open(folder.path().join("history"));
    for kinds in [[Kind::RedisPy, Kind::RedisPy], [Kind::Rslock, Kind::AsyncRedisLock]] {
        // Each has a separate lock, and they record it as the same.
        let keys = ["lock:a", "lock:b"];
        let mut clients: Vec<_> =
            kinds.into_iter().zip(keys).map(|(kind, key)| Client::start(kind, &server.url(), key)).collect();
        let name = kinds[0].word();
        clients.iter_mut().for_each(|client| client.begin_to_crowd(history.path(), name, Duration::from_secs(2)));
        assert!(clients.iter_mut().all(|client| client.holds() > 10));
        let records: Vec<_> = history.records().into_iter().filter(|record| record.key == name).collect();
        let verdict = judge(&records, Duration::ZERO);
        let overlaps = verdict.violations.iter().any(|violation| matches!(violation, Violation::Overlap { .. }));
        assert!(overlaps, "{kinds:?}: {verdict}");
    }
}

#[test]
#[ignore = "a child of another test"]
fn locks_repeatedly() {
    let Some([url, history]) = child::role().map(|arguments| <[String; 2]>::try_from(arguments).unwrap()) else {
        return;
    };
    let history = History::open(history);
    let manager = LockManager::connect(url).wait().unwrap();
    lock_repeatedly(&manager, &history, THREADS, HOLD, PAUSE);
}
