//! The interleavings that broke a simpler design, each by name, on a server whose time is that of the scene.

use super::super::super::script::Kind;
use super::Redis;
use super::manager::SECOND;
use super::server::{Server, clock, common, gone, keys_of, lives, lock, side, text};
use super::world::is_ear;

const START: u64 = 1_800_000_000 * SECOND;

/// A server, and requests without a client.
struct Scene {
    server: Server,
    now: u64,
    redis: Redis,
}

fn claim(manager: u64, attempt: u64, mode: char, ttl: u64) -> String {
    let limit = if mode == 'l' { "2" } else { "" };
    format!("{manager:016x}:{attempt:016x}:{mode}2::{ttl}:1:7:host:name:{limit}:")
}

impl Scene {
    fn new() -> Self {
        let redis = Redis::start();
        let mut server = Server::new(redis.raw.get_connection().unwrap(), None);
        server.clear(START);
        Self { server, now: START, redis }
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms * 1000;
        self.server.set_time(self.now);
    }

    /// Runs a script for the manager of these claims.
    fn run(&mut self, kind: Kind, keys: &[usize], claims: &[&str], word: &str) -> Vec<String> {
        let manager = u64::from_str_radix(&claims[0][..16], 16).unwrap();
        let args: Vec<_> = ["lock:%wake:".to_owned(), common(kind, claims.iter().map(|claim| (*claim, word)))]
            .into_iter()
            .chain(claims.iter().map(|claim| format!("{word} {claim}")))
            .collect();
        self.server.run(kind, &keys_of(manager, keys.iter().copied()), &args).iter().map(text).collect()
    }

    /// Acquires for these claims, each of the lock next to it.
    fn acquire_as(&mut self, claims: &[(usize, &str)], wanted: &str) -> Vec<String> {
        let (keys, claims): (Vec<_>, Vec<_>) = claims.iter().copied().unzip();
        self.run(Kind::Acquire, &keys, &claims, wanted)
    }

    fn acquire(&mut self, claim: &str) -> String {
        self.acquire_as(&[(0, claim)], "0").remove(0)
    }

    fn release_with(&mut self, claim: &str, tombstone: u64) -> String {
        self.run(Kind::Release, &[0], &[claim], &tombstone.to_string()).remove(0)
    }

    fn release(&mut self, claim: &str) -> String {
        self.release_with(claim, 0)
    }

    fn admit(&mut self) -> String {
        text(&self.server.run(Kind::Admit, &keys_of(1, [0].into_iter()), &["lock:%wake:".into()])[0])
    }

    fn renew(&mut self, claim: &str, epoch: &str) -> String {
        let keys = match &claim[34..35] {
            "x" => vec![lock(0)],
            _ => vec![lock(0), side("r2", 0)],
        };
        let ttl = claim.split(':').nth(4).unwrap();
        text(&self.server.run(Kind::Renew, &keys, &[claim.into(), epoch.into(), ttl.into()])[0])
    }

    fn life(&mut self, manager: u64) -> String {
        text(&self.server.run(Kind::Life, &[lives()], &[format!("{manager:016x}")])[0])
    }

    fn messages(&mut self) -> Vec<(u64, String)> {
        self.server.messages()
    }

    fn value(&mut self) -> Option<String> {
        self.server.get(&lock(0))
    }

    fn left(&mut self) -> i64 {
        text(&self.server.command(&["PTTL", &lock(0)])).parse().unwrap()
    }

    /// Queues these managers, each alive, with the attempt that has the manager's number.
    fn queue(&mut self, managers: std::ops::Range<u64>, mode: char) {
        for manager in managers {
            self.life(manager);
            let answer = self.acquire(&claim(manager, manager, mode, 10_000));
            assert!(answer.starts_with('q'), "{answer}");
        }
    }
}

fn epoch(answer: &str) -> u64 {
    answer.strip_prefix('g').unwrap_or_else(|| panic!("{answer}")).trim_end_matches('m').parse().unwrap()
}

#[test]
fn a_copy_that_arrives_after_its_release_takes_nothing() {
    let mut scene = Scene::new();
    for mode in ['x', 's', 'l'] {
        let holder = claim(1, 1 + u64::from(mode as u32), mode, 10_000);
        epoch(&scene.acquire(&holder));
        assert_eq!(scene.release_with(&holder, 60_000), "1");
        assert_eq!(scene.acquire(&holder), "d");
        scene.pass(59_000);
        assert_eq!(scene.acquire(&holder), "d");
        assert_eq!(scene.value(), None);
        epoch(&scene.acquire(&claim(2, 2, mode, 1_000)));
        scene.pass(2_000);
    }
}

#[test]
fn an_attempt_whose_answer_never_came_is_given_up_without_its_epoch() {
    let mut scene = Scene::new();
    for mode in ['x', 's', 'l'] {
        epoch(&scene.acquire(&claim(1, 1, mode, 10_000)));
        assert_eq!(scene.release_with(&claim(1, 1, mode, 10_000), 60_000), "1");
        assert_eq!(scene.value(), None);
        scene.server.clear(START);
    }
}

#[test]
fn epochs_are_never_rounded_and_never_shared() {
    let mut scene = Scene::new();
    scene.server.command(&["SET", &clock(), &(START + 3_600 * SECOND + 123_455).to_string()]);
    let mut last = 0;
    for attempt in 0..50 {
        let holder = claim(1, attempt, 'x', 10_000);
        let given = epoch(&scene.acquire(&holder));
        assert!(given > last && (last == 0 || given == last + 1), "{given} after {last}");
        last = given;
        scene.release(&holder);
    }
}

#[test]
fn a_call_that_grants_nothing_does_not_write_the_clock() {
    let mut scene = Scene::new();
    epoch(&scene.acquire(&claim(1, 1, 'x', 10_000)));
    let before = scene.server.get(&clock());
    scene.pass(100);
    assert!(scene.acquire(&claim(2, 2, 'x', 10_000)).starts_with('q'));
    assert_eq!(scene.acquire_as(&[(0, &claim(3, 3, 's', 10_000))], "-"), ["b"]);
    assert_eq!(scene.server.get(&clock()), before);
}

#[test]
fn two_parts_of_a_call_about_one_lock_do_not_both_get_it() {
    let mut scene = Scene::new();
    let (first, second, third) = (claim(1, 1, 'x', 10_000), claim(1, 2, 'x', 10_000), claim(1, 3, 's', 10_000));
    let answers = scene.acquire_as(&[(0, &first), (0, &second), (0, &third), (1, &second)], "0");
    epoch(&answers[0]);
    assert!(answers[1].starts_with('q') && answers[2].starts_with('q'), "{answers:?}");
    epoch(&answers[3]);
    // Shared first: the long way has taken the lock before the short way comes to it.
    let answers = scene.acquire_as(&[(2, &third), (2, &first)], "0");
    epoch(&answers[0]);
    assert!(answers[1].starts_with('q'), "{answers:?}");
}

#[test]
fn one_tombstone_does_not_send_the_others_the_long_way() {
    let mut scene = Scene::new();
    let claims: Vec<String> = (0..4).map(|attempt| claim(1, attempt, 'x', 10_000)).collect();
    scene.release_with(&claims[0], 60_000);
    let ops: Vec<(usize, &str)> = claims.iter().enumerate().map(|(key, claim)| (key, &**claim)).collect();
    let answers = scene.acquire_as(&ops, "0");
    assert_eq!(answers[0], "d");
    let epochs: Vec<u64> = answers[1..].iter().map(|answer| epoch(answer)).collect();
    // Older servers cannot read several scores at once.
    if scene.redis.version() >= (6, 2) {
        assert_eq!(epochs, [epochs[0]; 3], "one epoch for what goes the short way");
    }
}

#[test]
fn an_answer_queued_has_the_clock_as_it_was_before_the_call() {
    let mut scene = Scene::new();
    scene.life(1);
    let holder = claim(9, 9, 'x', 1_000);
    let before = epoch(&scene.acquire(&holder));
    let (first, second) = (claim(1, 1, 'x', 10_000), claim(2, 2, 'x', 10_000));
    assert!(scene.acquire(&first).starts_with('q'));
    scene.pass(1_000);
    scene.life(1);
    // The holder has expired: this call gives the lock to the first waiter, and queues the second.
    let answer = scene.acquire(&second);
    assert_eq!(answer.split(':').nth(1).unwrap(), before.to_string());
    let given: u64 = scene.messages()[0].1[17..].parse().unwrap();
    assert!(given > before);
}

#[test]
fn readers_of_an_earlier_period_do_not_return() {
    let mut scene = Scene::new();
    let (old, new) = (claim(1, 1, 's', 10_000), claim(2, 2, 's', 10_000));
    let period = epoch(&scene.acquire(&old)).to_string();
    // Another client deletes the lock, so the readers' key is left.
    scene.server.command(&["DEL", &lock(0)]);
    scene.pass(1);
    let next = epoch(&scene.acquire(&new)).to_string();
    assert_eq!(scene.renew(&old, &period), "0");
    assert_eq!(scene.renew(&old, &next), "0");
    assert_eq!(scene.renew(&new, &next), "1");
}

#[test]
fn each_slot_has_an_epoch_of_its_own_and_none_of_an_earlier_period_returns() {
    let mut scene = Scene::new();
    let claims: Vec<_> = (1..4).map(|number| claim(number, number, 'l', 10_000)).collect();
    let first = epoch(&scene.acquire(&claims[0]));
    let second = epoch(&scene.acquire(&claims[1]));
    assert!(second > first);
    scene.life(3);
    assert!(scene.acquire(&claims[2]).starts_with('q'));
    scene.release(&claims[0]);
    let third: u64 = scene.messages()[0].1[17..].parse().unwrap();
    assert!(third > second);
    assert_eq!(scene.renew(&claims[1], &second.to_string()), "1");
    assert_eq!(scene.renew(&claims[2], &third.to_string()), "1");
    // Another client deletes the lock, so the key of its holders is left.
    scene.server.command(&["DEL", &lock(0)]);
    epoch(&scene.acquire(&claim(4, 4, 'l', 10_000)));
    assert_eq!(scene.renew(&claims[1], &second.to_string()), "0");
    assert!(epoch(&scene.acquire(&claim(5, 5, 'l', 10_000))) > third);
}

#[test]
fn a_short_reader_does_not_shorten_a_long_ones_hold() {
    let mut scene = Scene::new();
    let (long, short) = (claim(1, 1, 's', 10_000), claim(2, 2, 's', 1_000));
    let period = epoch(&scene.acquire(&long)).to_string();
    epoch(&scene.acquire(&short));
    assert_eq!(scene.left(), 10_000);
    assert_eq!(scene.renew(&short, &period), "1");
    assert_eq!(scene.left(), 10_000);
    // With the last of them it ends by its TTL.
    scene.release(&long);
    assert_eq!(scene.left(), 1_000);
}

#[test]
fn a_sentinel_without_readers_is_not_free() {
    for sentinel in ["shared:2:1800000000000000", "limited:2:1800000000000000", "shared:2:1", "shared:2:", "shared:1:5"]
    {
        let mut scene = Scene::new();
        scene.server.command(&["SET", &lock(0), sentinel, "PX", "5000"]);
        for (number, mode) in ['x', 's', 'l'].into_iter().enumerate() {
            let answer = scene.acquire(&claim(1, number as u64, mode, 10_000));
            assert!(answer.starts_with("q5000:") && answer.ends_with('o'), "{sentinel} {mode}: {answer}");
        }
        assert_eq!(scene.value().as_deref(), Some(sentinel));
        scene.pass(5_000);
        epoch(&scene.acquire(&claim(1, 0, 'x', 10_000)));
    }
}

#[test]
fn readers_whose_key_is_deleted_keep_writers_out_until_they_know() {
    let mut scene = Scene::new();
    let reader = claim(1, 1, 's', 10_000);
    let period = epoch(&scene.acquire(&reader)).to_string();
    scene.server.command(&["DEL", &side("r2", 0)]);
    assert!(scene.acquire(&claim(2, 2, 'x', 10_000)).starts_with("q10000:"));
    assert_eq!(scene.renew(&reader, &period), "0");
    assert_eq!(scene.release(&reader), "0");
    assert!(scene.value().is_some());
}

#[test]
fn without_memory_new_locks_are_refused_and_holds_live_and_end() {
    let mut scene = Scene::new();
    let (holder, reader) = (claim(1, 1, 'x', 10_000), claim(2, 2, 's', 10_000));
    let given = epoch(&scene.acquire(&holder)).to_string();
    scene.queue(2..4, 's');
    scene.server.command(&["SET", "%oom", "1"]);
    let refused = scene.acquire_as(&[(1, &claim(5, 5, 'x', 10_000))], "0").remove(0);
    assert!(refused.starts_with("eOOM"), "{refused}");
    assert_eq!(scene.life(2), "1");
    assert_eq!(scene.renew(&holder, &given), "1");
    assert!(scene.acquire(&reader).starts_with('q'), "a repeated request of a waiter");
    let writer = claim(4, 4, 'x', 10_000);
    let answers = scene.acquire_as(&[(1, &claim(5, 5, 'x', 10_000)), (0, &writer)], "0");
    assert!(answers[0].starts_with("eOOM") && answers[1].starts_with('q'), "each has its own answer: {answers:?}");
    assert_eq!(scene.release(&writer), "0");
    assert_eq!(scene.release_with(&holder, 60_000), "1");
    let messages = scene.messages();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert_eq!(scene.renew(&reader, &messages[0].1[17..]), "1");
    assert_eq!(scene.release(&reader), "1");
    assert_eq!(scene.release(&claim(3, 3, 's', 10_000)), "1");
    assert_eq!(scene.value(), None);
}

#[test]
fn a_stall_of_the_server_loses_no_order() {
    for stall in [1_500, 3_000, 9_000] {
        let mut scene = Scene::new();
        let holder = claim(99, 99, 'x', 60_000);
        epoch(&scene.acquire(&holder));
        scene.queue(0..6, 'x');
        scene.pass(stall);
        // The last ones come back first; one of them finds that the others' lives have ended.
        let mut current = holder;
        for manager in (0..6).rev() {
            let had_ended = scene.life(manager);
            assert_eq!(had_ended, if stall < 1_900 { "1" } else { "0" });
            let own = claim(manager, manager, 'x', 10_000);
            let place = scene.server.score(&side("q2", 0), &own).unwrap();
            assert!(scene.acquire_as(&[(0, &own)], &place.to_string())[0].starts_with('q'));
        }
        for manager in 0..6 {
            assert_eq!(scene.release(&current), "1");
            let messages = scene.messages();
            assert_eq!(messages[0].0, manager, "after a stall of {stall} ms");
            current = claim(manager, manager, 'x', 10_000);
        }
    }
}

#[test]
fn a_waiter_whose_place_was_removed_comes_back_to_it() {
    let mut scene = Scene::new();
    let holder = claim(99, 99, 'x', 60_000);
    epoch(&scene.acquire(&holder));
    scene.queue(0..2, 'x');
    let place = scene.server.score(&side("q2", 0), &claim(0, 0, 'x', 10_000)).unwrap();
    scene.pass(3_000);
    scene.life(1);
    // The first one is stopped: the second gets the lock.
    scene.release(&holder);
    assert_eq!(scene.messages()[0].0, 1);
    scene.queue(2..4, 'x');
    assert_eq!(scene.life(0), "0");
    let own = claim(0, 0, 'x', 10_000);
    assert_eq!(scene.server.score(&side("q2", 0), &own), None);
    scene.acquire_as(&[(0, &own)], &place.to_string());
    scene.release(&claim(1, 1, 'x', 10_000));
    assert_eq!(scene.messages()[0].0, 0, "ahead of those that came later");
}

#[test]
fn a_life_that_ended_long_ago_is_unknown() {
    let mut scene = Scene::new();
    assert_eq!(scene.life(1), "n");
    assert_eq!(scene.life(1), "1");
    scene.pass(11_800);
    assert_eq!(scene.life(1), "0");
    scene.life(2);
    scene.pass(11_950);
    scene.life(2);
    assert_eq!(scene.life(1), "n");
}

#[test]
fn a_thousand_dead_waiters_are_removed_in_steps() {
    let mut scene = Scene::new();
    let holder = claim(9_999, 9_999, 'x', 60_000);
    epoch(&scene.acquire(&holder));
    scene.queue(0..1_000, 'x');
    scene.pass(5_000);
    scene.queue(1_000..1_001, 'x');
    let mut answer = scene.release(&holder);
    let mut calls = 1;
    while answer.ends_with('m') {
        assert!(scene.messages().is_empty());
        answer = scene.admit();
        calls += 1;
    }
    assert_eq!((scene.messages()[0].0, calls), (1_000, 4));
}

#[test]
fn many_readers_are_let_in_by_steps() {
    let mut scene = Scene::new();
    let holder = claim(9_999, 9_999, 'x', 60_000);
    epoch(&scene.acquire(&holder));
    for manager in 0..600 {
        scene.life(manager % 7);
        scene.acquire(&claim(manager % 7, manager, 's', 10_000));
    }
    scene.queue(700..701, 'x');
    let mut answer = scene.release(&holder);
    let mut steps = vec![scene.messages().len()];
    while answer.ends_with('m') {
        answer = scene.admit();
        steps.push(scene.messages().len());
    }
    assert_eq!((steps.iter().sum::<usize>(), steps.len()), (600, 3), "{steps:?}");
    assert_eq!(scene.server.members(&side("q2", 0)).len(), 1, "the writer waits");
}

#[test]
fn slots_are_given_up_to_the_limit_and_the_first_end_is_told() {
    let mut scene = Scene::new();
    epoch(&scene.acquire(&claim(1, 1, 'l', 3_000)));
    scene.pass(1_000);
    epoch(&scene.acquire(&claim(2, 2, 'l', 10_000)));
    scene.life(3);
    let third = claim(3, 3, 'l', 10_000);
    assert!(scene.acquire(&third).starts_with("q2000:"), "the end of the first slot");
    assert!(scene.acquire(&claim(4, 4, 's', 10_000)).starts_with('q'), "readers would break the limit");
    scene.release(&claim(2, 2, 'l', 10_000));
    let messages = scene.messages();
    assert_eq!((messages.len(), messages[0].0), (1, 3));
}

#[test]
fn each_slot_is_given_by_the_limit_of_its_claim() {
    let of = |manager: u64, limit: u32| claim(manager, manager, 'l', 10_000).replace(":2:", &format!(":{limit}:"));
    let mut scene = Scene::new();
    for manager in 0..6 {
        scene.life(manager);
    }
    for (manager, limit) in [(0, 3), (1, 3), (2, 5)] {
        epoch(&scene.acquire(&of(manager, limit)));
    }
    for (manager, limit) in [(3, 2), (4, 5)] {
        assert!(scene.acquire(&of(manager, limit)).starts_with('q'));
    }
    assert_eq!(scene.acquire_as(&[(0, &of(5, 9))], "-"), ["b"], "others wait");
    scene.release(&of(0, 3));
    assert!(scene.messages().is_empty(), "two hold it, and the first in the queue has a limit of two");
    scene.release(&of(2, 5));
    let admitted: Vec<u64> = scene.messages().into_iter().map(|(manager, _)| manager).collect();
    assert_eq!(admitted, [3, 4], "one departure, and room for both");
}

/// Arms an ear. Returns what is said of a waiter, if the claim asks for one.
fn listen(scene: &mut Scene, kind: char, number: u64, claim: &str) -> String {
    let ear = format!("{kind}:{:016x}:{number:016x}", 1);
    let (script, word) = if kind == 'w' { (Kind::Listen, format!("{ear} {claim}")) } else { (Kind::Inspect, ear) };
    match scene.server.run(script, &keys_of(1, [0].into_iter()), &["lock:%wake:".into(), word]).remove(0) {
        redis::Value::Array(_) => String::new(),
        answer => text(&answer),
    }
}

/// How many ears the first lock has.
fn ears(scene: &mut Scene) -> usize {
    scene.server.members(&side("q2", 0)).iter().filter(|(member, _)| is_ear(member)).count()
}

#[test]
fn an_ear_is_told_each_change_once() {
    let mut scene = Scene::new();
    let told = |scene: &mut Scene, number: u64| {
        let messages = scene.messages();
        let of_ear = (1, format!("o{number:016x}"));
        assert_eq!(messages.iter().filter(|message| **message == of_ear).count(), 1, "{messages:?}");
        assert_eq!(ears(scene), 0);
    };
    let (writer, reader, other) = (claim(1, 1, 'x', 10_000), claim(2, 2, 's', 10_000), claim(3, 3, 's', 10_000));
    listen(&mut scene, 'o', 1, "");
    epoch(&scene.acquire(&writer));
    told(&mut scene, 1);
    scene.life(2);
    listen(&mut scene, 'o', 2, "");
    assert!(scene.acquire(&reader).starts_with('q'));
    assert!(scene.messages().is_empty(), "a waiter is no change");
    assert_eq!(scene.release(&writer), "1");
    told(&mut scene, 2);
    listen(&mut scene, 'o', 3, "");
    epoch(&scene.acquire(&other));
    told(&mut scene, 3);
    listen(&mut scene, 'o', 4, "");
    assert_eq!(scene.release(&reader), "1");
    told(&mut scene, 4);
    listen(&mut scene, 'o', 5, "");
    scene.server.run(Kind::Evict, &keys_of(1, [0].into_iter()), &["lock:%wake:".into(), String::new()]);
    told(&mut scene, 5);
    // Nobody listens any more.
    epoch(&scene.acquire(&writer));
    assert!(scene.messages().is_empty());
    // One of several locks of a call is listened to.
    let (second, third) = (claim(1, 7, 'x', 10_000), claim(1, 8, 'x', 10_000));
    scene.release(&writer);
    listen(&mut scene, 'o', 6, "");
    let answers = scene.acquire_as(&[(1, &second), (0, &writer), (2, &third)], "0");
    assert_eq!(epoch(&answers[0]), epoch(&answers[2]));
    told(&mut scene, 6);
    listen(&mut scene, 'o', 7, "");
    let released = scene.run(Kind::Release, &[1, 0, 2], &[&second, &writer, &third], "0");
    assert_eq!(released, ["1", "1", "1"]);
    told(&mut scene, 7);
}

#[test]
fn many_ears_are_told_by_steps() {
    let mut scene = Scene::new();
    for number in 0..600 {
        listen(&mut scene, 'o', number, "");
    }
    let mut answer = scene.acquire(&claim(2, 2, 'x', 10_000));
    let mut steps = vec![scene.messages().len()];
    while answer.ends_with('m') {
        answer = scene.admit();
        steps.push(scene.messages().len());
    }
    assert_eq!((steps.iter().sum::<usize>(), steps.len()), (600, 3), "{steps:?}");
}

#[test]
fn ears_of_managers_that_are_gone_do_not_stay() {
    let mut scene = Scene::new();
    for number in 0..5 {
        listen(&mut scene, 'o', number, "");
        scene.pass(40_000);
    }
    assert_eq!(ears(&mut scene), 2);
    scene.pass(60_000);
    assert_eq!(ears(&mut scene), 0);
}

#[test]
fn a_hold_is_told_that_it_is_wanted() {
    for (mode, other) in [('x', 'x'), ('s', 'x'), ('l', 's'), ('l', 'l')] {
        let mut scene = Scene::new();
        let (holder, waiter) = (claim(1, 1, mode, 10_000), claim(2, 2, other, 10_000));
        assert_eq!(listen(&mut scene, 'w', 1, &holder), "n");
        epoch(&scene.acquire(&holder));
        if mode == 'l' {
            epoch(&scene.acquire(&claim(3, 3, 'l', 10_000)));
        }
        assert_eq!(listen(&mut scene, 'w', 1, &holder), "0");
        assert_eq!(scene.acquire_as(&[(0, &waiter)], "-"), ["b"]);
        assert!(scene.messages().is_empty(), "a try does not wait");
        scene.life(2);
        assert!(scene.acquire(&waiter).starts_with('q'));
        assert_eq!(scene.messages(), [(1, format!("o{:016x}", 1))], "{mode} {other}");
        assert_eq!(listen(&mut scene, 'w', 1, &holder), "1");
        // A dead one does not count.
        scene.pass(2_000);
        assert_eq!(listen(&mut scene, 'w', 1, &holder), "0");
        scene.life(2);
        assert!(scene.acquire(&waiter).starts_with('q'));
        assert_eq!(scene.messages().len(), 1);
        scene.release(&holder);
        assert_eq!(listen(&mut scene, 'w', 1, &holder), "n");
    }
}

#[test]
fn without_memory_listeners_are_told() {
    let mut scene = Scene::new();
    let holder = claim(1, 1, 'x', 10_000);
    epoch(&scene.acquire(&holder));
    scene.server.command(&["SET", "%oom", "1"]);
    listen(&mut scene, 'o', 1, "");
    assert_eq!(listen(&mut scene, 'w', 2, &holder), "0");
    assert_eq!(scene.release(&holder), "1");
    assert_eq!(scene.messages(), [(1, format!("o{:016x}", 1))]);
}

#[test]
fn what_has_expired_in_a_semaphore_does_not_stay() {
    let mut scene = Scene::new();
    for attempt in 0..20 {
        epoch(&scene.acquire(&claim(1, attempt, 'l', 1_000)));
        scene.pass(600);
    }
    assert!(scene.server.members(&side("r2", 0)).len() <= 2);
}

#[test]
fn what_is_not_ours_at_a_side_key_is_named_and_nothing_is_written() {
    let holder = claim(1, 1, 's', 10_000);
    for (name, command) in [
        (clock(), ["SET", "nonsense"]),
        (clock(), ["SET", "1e300"]),
        (clock(), ["SET", "inf"]),
        (clock(), ["SET", "1900000000000000"]),
        (clock(), ["SADD", "x"]),
        (gone(1), ["SET", "x"]),
    ] {
        let mut scene = Scene::new();
        scene.server.command(&[command[0], &name, command[1]]);
        for mode in ['x', 's', 'l'] {
            assert_eq!(scene.acquire(&claim(1, 1, mode, 10_000)), format!("w{name}"), "{mode}");
        }
        assert_eq!(scene.value(), None);
    }
    let listening = |scene: &mut Scene| {
        let args = ["lock:%wake:".into(), format!("o:{:016x}:{:016x}", 1, 1)];
        scene.server.run(Kind::Inspect, &keys_of(1, [0].into_iter()), &args).remove(0)
    };
    let mut scene = Scene::new();
    scene.server.command(&["SET", &side("q2", 0), "x"]);
    assert_eq!(text(&listening(&mut scene)), format!("w{}", side("q2", 0)));
    for kind in ["q2", "r2"] {
        let mut scene = Scene::new();
        let period = epoch(&scene.acquire(&holder)).to_string();
        let name = side(kind, 0);
        scene.server.command(&["DEL", &name]);
        scene.server.command(&["SET", &name, "x"]);
        let wrong = format!("w{name}");
        for mode in ['x', 's', 'l'] {
            assert_eq!(scene.acquire(&claim(2, 2, mode, 10_000)), wrong, "{kind} {mode}");
        }
        assert_eq!(scene.release(&holder), wrong);
        let renewed = scene.renew(&holder, &period);
        assert!(kind == "q2" && renewed == "1" || renewed == wrong, "{renewed}");
        assert!(scene.value().is_some());
    }
}

#[test]
fn what_others_write_into_a_queue_is_removed() {
    let manager = format!("{:016x}", 5);
    for place in [
        "x".to_owned(),
        format!("{manager}:{manager}:x2::0:1:7:host:name::"),
        format!("{manager}:{manager}:x2::-1:1:7:host:name::"),
        format!("{manager}:{manager}:x2::99999999999:1:7:host:name::"),
        format!("{manager}:{manager}:l2::1000:1:7:host:name::"),
        format!("{manager}:{manager}:x2::1000"),
    ] {
        let mut scene = Scene::new();
        let holder = claim(1, 1, 'x', 10_000);
        epoch(&scene.acquire(&holder));
        scene.life(5);
        scene.server.command(&["ZADD", &side("q2", 0), "1", &place]);
        scene.queue(2..3, 'x');
        assert_eq!(scene.release(&holder), "1", "{place}");
        let messages = scene.messages();
        assert_eq!((messages.len(), messages[0].0), (1, 2), "{place}");
        assert!(scene.server.members(&side("q2", 0)).is_empty());
    }
}

#[test]
fn another_clients_lock_excludes_whatever_it_is() {
    for value in ["5f0c6a2e8d", "", &"x".repeat(10_000), "0000000000000005:0000000000000abc:x3:who knows"] {
        let mut scene = Scene::new();
        scene.server.command(&["SET", &lock(0), value]);
        let answer = scene.acquire(&claim(1, 1, 'x', 10_000));
        assert!(answer.starts_with("q-1:") && answer.ends_with('o') != value.contains("x3"), "{answer}");
        assert_eq!(scene.release(&claim(1, 1, 'x', 10_000)), "0");
        assert_eq!(scene.value().as_deref(), Some(value));
    }
    let mut scene = Scene::new();
    scene.server.command(&["LPUSH", &lock(0), "x"]);
    assert_eq!(scene.acquire(&claim(1, 1, 'x', 10_000)), "i");
    assert_eq!(scene.acquire(&claim(1, 1, 's', 10_000)), "i");
    assert_eq!(scene.release(&claim(1, 1, 'x', 10_000)), "0");
}

#[test]
fn a_claim_is_evicted_alone() {
    let mut scene = Scene::new();
    let (first, second) = (claim(1, 1, 's', 10_000), claim(2, 2, 's', 5_000));
    let period = epoch(&scene.acquire(&first)).to_string();
    epoch(&scene.acquire(&second));
    scene.queue(3..4, 'x');
    let shown = scene.server.run(Kind::Inspect, &keys_of(1, [0].into_iter()), &["lock:%wake:".into(), String::new()]);
    let redis::Value::Array(shown) = &shown[0] else { panic!("{shown:?}") };
    assert_eq!((text(&shown[0]), text(&shown[3]), text(&shown[5])), ("string".into(), "1".into(), second.clone()));
    let only = format!("={},", text(&shown[6]));
    assert_eq!(text(&shown[7]), first);
    scene.server.run(Kind::Evict, &keys_of(1, [0].into_iter()), &["lock:%wake:".into(), only]);
    assert_eq!(scene.messages(), [(1, format!("l{:016x}", 1))]);
    assert_eq!(scene.renew(&first, &period), "0");
    assert_eq!(scene.left(), 5_000, "as long as the other");
    assert_eq!(scene.renew(&second, &period), "1");
    scene.server.run(Kind::Evict, &keys_of(1, [0].into_iter()), &["lock:%wake:".into(), String::new()]);
    let messages = scene.messages();
    assert_eq!(messages[0], (2, format!("l{:016x}", 2)));
    assert_eq!(messages[1].0, 3, "and the waiter gets the lock");
}
