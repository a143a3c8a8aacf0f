//! Nodes and sentinels that answer nonsense, and nodes that send requests about without end.

use std::net::SocketAddr;
use std::panic;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use leasehold::{LockManager, Result};
use support::stub::{Stub, all_slots_at, integer, list, of_node, slots_at, text, texts};
use support::{eventually, in_a_separate_process};

/// The managers' timeout.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The panics of all threads of this process so far.
fn watch_panics() -> Arc<Mutex<Vec<String>>> {
    let (panics, usual) = (Arc::<Mutex<Vec<String>>>::default(), panic::take_hook());
    let seen = panics.clone();
    panic::set_hook(Box::new(move |info| {
        seen.lock().unwrap().push(info.to_string());
        usual(info);
    }));
    panics
}

fn connect(url: &str) -> Result<LockManager> {
    LockManager::builder().url(url).timeout(TIMEOUT).ttl(Duration::from_secs(6)).build().wait()
}

/// Asserts that connecting fails in time.
fn is_refused(what: &str, url: &str) {
    let start = Instant::now();
    let error = connect(url).map(drop).expect_err(what);
    let (took, said) = (start.elapsed(), error.to_string());
    println!("{what}: {said} after {took:?}");
    assert!(["BACKEND", "INVALID_CONFIG"].contains(&error.code()), "{what}: {error}");
    assert!(took < TIMEOUT + Duration::from_secs(2), "{what}: {took:?}");
    assert!(said.len() < 300 && !said.contains(|letter: char| letter.is_control()), "{what}: {said:?}");
}

/// Answers of any form, none of them one that is expected.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("no answer", Vec::new()),
        ("a word", b"+OK\r\n".into()),
        ("a number", integer(5)),
        ("nothing", b"$-1\r\n".into()),
        ("no list", b"*-1\r\n".into()),
        ("an empty list", list(&[])),
        ("a list of numbers", list(&[integer(1), integer(2)])),
        ("a list of lists", list(&[list(&[]), list(&[list(&[])])])),
        ("nested lists", b"*1\r\n".repeat(1000)),
        ("a list without an end", b"*1000000000\r\n".into()),
        ("a text without an end", b"$1000000000\r\nx".into()),
        ("a negative length", b"*-5\r\n$-7\r\n".into()),
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".into()),
        ("bytes", (0..=255).collect()),
        ("a map", b"%1\r\n+a\r\n:1\r\n".into()),
        ("an error", b"-\r\n".into()),
        ("an error with control characters", b"-ERR \x1b[2J\x07\r\n".into()),
    ]
}

#[test]
fn nodes_that_answer_nonsense_are_refused_in_time() {
    in_a_separate_process!();
    let panics = watch_panics();
    let id = "a".repeat(40);
    let here = "127.0.0.1";
    let range = |first, last, port| slots_at(first, last, here, port, &id);
    let mut answers = nonsense();
    answers.extend([
        ("no port", range(0, 16383, 0)),
        ("a negative port", range(0, 16383, -1)),
        ("a port that is too great", range(0, 16383, 65536)),
        ("an even greater port", range(0, 16383, i64::MAX)),
        ("negative slots", range(-5, 16383, 1)),
        ("slots that are too great", range(0, i64::MAX, 1)),
        ("a host that is none", slots_at(0, 16383, "a b\u{1b}[2J", 1, &id)),
        ("a number for a host", list(&[list(&[integer(0), integer(9), list(&[integer(7), integer(1), text(&id)])])])),
        ("a node without an id", list(&[list(&[integer(0), integer(9), list(&[text(here), integer(1)])])])),
        ("no node", list(&[list(&[integer(0), integer(9)])])),
        ("too many nodes", {
            let node = |number: i64| list(&[text("127.0.0.1"), integer(1), text(&format!("{number:040}"))]);
            list(
                &(0..5_000)
                    .map(|slot| list(&[integer(slot % 16384), integer(slot % 16384), node(slot)]))
                    .collect::<Vec<_>>(),
            )
        }),
    ]);
    for (what, answer) in answers {
        let node = Stub::start(move |words| match words {
            ["CLUSTER", "SLOTS"] => answer.clone(),
            words => of_node("a", words),
        });
        is_refused(what, &format!("redis+cluster://{}", node.address()));
    }
    assert_eq!(*panics.lock().unwrap(), [""; 0]);
}

#[test]
fn sentinels_that_answer_nonsense_are_refused_in_time() {
    in_a_separate_process!();
    let panics = watch_panics();
    let sound = |words: &[&str]| match words {
        ["SENTINEL", "MASTER", ..] => texts(&["config-epoch", "1", "num-other-sentinels", "0"]),
        ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", ..] => texts(&["127.0.0.1", "1"]),
        ["SENTINEL", "SENTINELS", ..] => list(&[]),
        ["SENTINEL", "MYID"] => text(&"5".repeat(40)),
        _ => b"+OK\r\n".to_vec(),
    };
    for kind in ["MASTER", "GET-MASTER-ADDR-BY-NAME", "SENTINELS", "MYID"] {
        let mut answers = nonsense();
        if kind == "GET-MASTER-ADDR-BY-NAME" {
            for (host, port) in [("h", "0"), ("h", "-1"), ("h", "65536"), ("h", "x"), ("", "1"), ("a b\u{1b}[2J", "1")]
            {
                answers.push(("an address that is none", texts(&[host, port])));
            }
        }
        if kind == "MASTER" {
            answers.push(("an epoch that is none", texts(&["config-epoch", "-1"])));
            answers.push(("an epoch that is too great", texts(&["config-epoch", "99999999999999999999"])));
        }
        if kind == "SENTINELS" {
            let other = |number: usize| texts(&["ip", "127.0.0.1", "port", "1", "runid", &format!("{number:040}")]);
            answers.push(("many sentinels", list(&(0..2_000).map(other).collect::<Vec<_>>())));
        }
        for (what, answer) in answers {
            let sentinel = Stub::start(move |words| match words {
                ["SENTINEL", found, ..] if *found == kind => answer.clone(),
                words => sound(words),
            });
            is_refused(&format!("{kind}: {what}"), &format!("redis+sentinel://{}/main", sentinel.address()));
        }
    }
    assert_eq!(*panics.lock().unwrap(), [""; 0]);
}

/// Two nodes, of which the first one has all slots by the map of both. Each answers requests about locks by this function of the
/// other's address.
fn two_nodes(answer: impl Fn(SocketAddr) -> String + Clone + Send + Sync + 'static) -> [Stub; 2] {
    let addresses = Arc::<OnceLock<[SocketAddr; 2]>>::default();
    let nodes = [0, 1].map(|place| {
        let (addresses, answer) = (addresses.clone(), answer.clone());
        Stub::start(move |words| {
            let addresses = addresses.get().unwrap();
            match words {
                ["CLUSTER", "SLOTS"] => all_slots_at(&"0".repeat(40), addresses[0]),
                ["EVAL" | "EVALSHA", ..] => format!("-{}\r\n", answer(addresses[1 - place])).into(),
                words => of_node(&place.to_string().repeat(40), words),
            }
        })
    });
    addresses.set([nodes[0].address(), nodes[1].address()]).unwrap();
    nodes
}

#[test]
fn nodes_that_send_requests_about_are_asked_a_few_times_a_second() {
    in_a_separate_process!();
    let panics = watch_panics();
    type Answer = fn(SocketAddr) -> String;
    let answers: [(&str, Answer); 9] = [
        ("each names the other", |other| format!("MOVED 1 {other}")),
        ("each asks for the other", |other| format!("ASK 1 {other}")),
        ("an address where nothing is", |_| "MOVED 1 127.0.0.1:1".to_owned()),
        ("the same, to be asked", |_| "ASK 1 127.0.0.1:1".to_owned()),
        ("a port that is too great", |_| "MOVED 1 127.0.0.1:65536".to_owned()),
        ("no port", |_| "MOVED 1 127.0.0.1:0".to_owned()),
        ("a slot that is being moved for ever", |_| {
            "TRYAGAIN Multiple keys request during rehashing of slot".to_owned()
        }),
        ("no slots", |_| "CLUSTERDOWN Hash slot not served".to_owned()),
        ("a replica", |_| "READONLY You can't write against a read only replica.".to_owned()),
    ];
    let try_each = |what: &str, answer: Answer| {
        let nodes = two_nodes(answer);
        let url = format!("redis+cluster://{}", nodes[0].address());
        let manager = eventually("connected", || connect(&url).ok());
        let start = Instant::now();
        let error = manager.try_lock("k").wait().unwrap_err();
        println!("{what}: {error} after {:?}", start.elapsed());
        assert_eq!(error.code(), "BACKEND", "{what}: {error}");
        assert!(start.elapsed() < TIMEOUT + Duration::from_secs(2), "{what}: {:?}", start.elapsed());
        let request = manager.lock("k");
        let waiting = std::thread::spawn(move || request.timeout(Duration::from_secs(6)).wait().map(drop));
        std::thread::sleep(Duration::from_secs(1));
        let count = || nodes.iter().map(Stub::requests).sum::<u64>();
        let (before, pause) = (count(), Duration::from_secs(4));
        std::thread::sleep(pause);
        let rate = (count() - before) as f64 / pause.as_secs_f64();
        println!("{what}: {rate} requests a second");
        assert!(rate < 40.0, "{what}: {rate}");
        println!("{what}: {}", waiting.join().unwrap().unwrap_err());
    };
    std::thread::scope(|scope| {
        for (what, answer) in answers {
            scope.spawn(move || try_each(what, answer));
        }
    });
    assert_eq!(*panics.lock().unwrap(), [""; 0]);
}
