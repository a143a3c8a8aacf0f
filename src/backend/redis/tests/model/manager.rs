//! A manager of a walk: what a client does, without its sockets.

use std::collections::{BTreeMap, VecDeque};

use super::super::super::script::Kind;

pub(super) const SECOND: u64 = 1_000_000;
const HANDOVER: u64 = 2 * SECOND;

pub(super) type Id = u64;

/// What a manager asks for, for one lock.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Acquire {
        attempt: Id,
        claim: String,
        key: usize,
        wanted: String,
    },
    Release {
        attempt: Id,
        claim: String,
        key: usize,
        tombstone: u64,
    },
    Renew {
        attempt: Id,
        claim: String,
        key: usize,
        epoch: u64,
        ttl: u64,
    },
    Admit {
        key: usize,
    },
    Life,
    /// A plain look at a lock, and at the own place if `place`; it may prolong the queue.
    Look {
        attempt: Id,
        claim: String,
        key: usize,
        mode: char,
        place: bool,
        prolong: bool,
    },
}

impl Op {
    pub(super) fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Acquire { .. } => Kind::Acquire,
            Self::Release { .. } => Kind::Release,
            Self::Renew { .. } => Kind::Renew,
            Self::Admit { .. } => Kind::Admit,
            Self::Life => Kind::Life,
            Self::Look { .. } => return None,
        })
    }
}

/// The answer to a look: the lock's value, the own places in q2 and r2, whether the own place is the first.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) value: Option<String>,
    pub(super) place: bool,
    pub(super) shares: bool,
    pub(super) leads: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Text(String),
    Seen(Seen),
}

/// A call on the wire.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) ops: Vec<Op>,
    pub(super) sent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    Held,
    Ended,
}

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) key: usize,
    pub(super) mode: char,
    /// How many may share the lock with mode `l`.
    pub(super) limit: usize,
    pub(super) ttl: u64,
    pub(super) claim: String,
    pub(super) wait: bool,
    pub(super) stage: Stage,
    pub(super) epoch: u64,
    pub(super) deadline: u64,
    pending: bool,
    in_flight: u32,
    unanswered: bool,
    first_sent: Option<u64>,
    queued: Option<u64>,
    fence: u64,
    place: Option<u64>,
    announced: bool,
    next_look: u64,
    /// Whether to ask then: it is the first that waits for a slot.
    asks: bool,
    looks: u32,
    next_renewal: u64,
}

/// A fault that is planted into a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Careless {
    No,
    /// A grant by message is dated from its receipt.
    DatesByReceipt,
    /// What a look shows says nothing about earlier messages.
    LooksWithoutEpoch,
    /// It releases without a tombstone.
    WithoutTombstone,
    /// It waits for messages only.
    NeverLooks,
    /// It never looks for its place.
    TrustsItsPlace,
}

#[derive(Debug)]
pub(super) struct Manager {
    careless: Careless,
    pub(super) id: u64,
    pub(super) attempts: BTreeMap<Id, Attempt>,
    ops: VecDeque<Op>,
    pub(super) wire: VecDeque<Call>,
    pub(super) replies: VecDeque<(Call, Vec<Answer>)>,
    next_life: u64,
    check_places: bool,
    pub(super) stopped_until: u64,
    pub(super) jitter: u64,
}

impl Manager {
    pub(super) fn new(id: u64, careless: Careless) -> Self {
        Self {
            careless,
            id,
            attempts: BTreeMap::new(),
            ops: VecDeque::new(),
            wire: VecDeque::new(),
            replies: VecDeque::new(),
            next_life: 0,
            check_places: false,
            stopped_until: 0,
            jitter: id % 150_000,
        }
    }

    pub(super) fn acquire(&mut self, id: Id, key: usize, (mode, limit): (char, usize), ttl: u64, wait: bool) {
        let shown = if mode == 'l' { limit.to_string() } else { String::new() };
        let claim = format!("{:016x}:{id:016x}:{mode}2::{}:1:7:host:name:{shown}:", self.id, ttl / 1000);
        let attempt = Attempt {
            key,
            mode,
            limit,
            ttl,
            claim,
            wait,
            stage: Stage::Waiting,
            epoch: 0,
            deadline: 0,
            pending: false,
            in_flight: 0,
            unanswered: false,
            first_sent: None,
            queued: None,
            fence: 0,
            place: None,
            announced: false,
            next_look: u64::MAX,
            asks: false,
            looks: 0,
            next_renewal: u64::MAX,
        };
        self.attempts.insert(id, attempt);
        self.ask(id);
    }

    /// Asks by script.
    fn ask(&mut self, id: Id) {
        let attempt = self.attempts.get_mut(&id).unwrap();
        if attempt.stage != Stage::Waiting || attempt.pending {
            return;
        }
        attempt.pending = true;
        let wanted = if attempt.wait { attempt.place.unwrap_or(0).to_string() } else { "-".into() };
        let key = attempt.key;
        self.ops.push_back(Op::Acquire { attempt: id, claim: attempt.claim.clone(), key, wanted });
    }

    /// Gives up an attempt.
    pub(super) fn release(&mut self, id: Id) {
        let attempt = self.attempts.get_mut(&id).unwrap();
        attempt.stage = Stage::Ended;
        if attempt.first_sent.is_none() {
            self.attempts.remove(&id);
            return;
        }
        let copies = (attempt.unanswered || attempt.in_flight > 0) && self.careless != Careless::WithoutTombstone;
        let tombstone = if copies { 60_000 } else { 0 };
        self.ops.push_back(Op::Release { attempt: id, claim: attempt.claim.clone(), key: attempt.key, tombstone });
    }

    fn is_waiting(&self) -> bool {
        self.attempts.values().any(|attempt| attempt.stage == Stage::Waiting && attempt.wait)
    }

    /// Whether a waiter of a key waits.
    pub(super) fn waiting_for(&self, key: usize) -> bool {
        self.attempts.values().any(|attempt| attempt.stage != Stage::Held && attempt.key == key)
    }

    /// What is due.
    pub(super) fn tick(&mut self, now: u64) {
        let due: Vec<Id> = self.attempts.keys().copied().collect();
        for id in due {
            let attempt = self.attempts.get_mut(&id).unwrap();
            match attempt.stage {
                Stage::Waiting
                    if attempt.next_look <= now && !attempt.pending && self.careless != Careless::NeverLooks =>
                {
                    attempt.looks += 1;
                    if attempt.asks {
                        self.ask(id);
                        continue;
                    }
                    let checks = self.check_places || attempt.looks.is_multiple_of(5);
                    let place = checks && self.careless != Careless::TrustsItsPlace;
                    let prolong = attempt.looks.is_multiple_of(20);
                    attempt.next_look = u64::MAX;
                    let (claim, key, mode) = (attempt.claim.clone(), attempt.key, attempt.mode);
                    self.ops.push_back(Op::Look { attempt: id, claim, key, mode, place, prolong });
                }
                Stage::Held if attempt.next_renewal <= now => {
                    attempt.next_renewal = u64::MAX;
                    let (claim, key, epoch, ttl) = (attempt.claim.clone(), attempt.key, attempt.epoch, attempt.ttl);
                    self.ops.push_back(Op::Renew { attempt: id, claim, key, epoch, ttl });
                }
                _ => {}
            }
            if let Some(attempt) = self.attempts.get_mut(&id)
                && attempt.stage == Stage::Held
                && attempt.deadline <= now
            {
                self.release(id);
            }
        }
        if self.is_waiting() && self.next_life <= now {
            self.next_life = now + SECOND;
            self.ops.push_front(Op::Life);
        }
    }

    /// Sends one call.
    pub(super) fn send(&mut self, now: u64) {
        loop {
            let release = self.ops.iter().position(|op| op.kind() == Some(Kind::Release));
            let life = self.ops.iter().position(|op| op.kind() == Some(Kind::Life));
            let Some(first) = life.or(release).or(if self.ops.is_empty() { None } else { Some(0) }) else { return };
            let kind = self.ops[first].kind();
            let mut ops = Vec::new();
            self.ops.retain(|op| {
                let taken = op.kind() == kind && ops.len() < 3;
                if taken {
                    ops.push(op.clone());
                }
                !taken
            });
            ops.retain(|op| {
                let Op::Acquire { attempt, .. } = op else { return true };
                let Some(attempt) = self.attempts.get_mut(attempt) else { return false };
                let wanted = attempt.stage == Stage::Waiting;
                if wanted {
                    attempt.in_flight += 1;
                    attempt.first_sent.get_or_insert(now);
                } else {
                    attempt.pending = false;
                }
                wanted
            });
            if !ops.is_empty() {
                self.wire.push_back(Call { ops, sent: now });
                return;
            }
        }
    }

    /// The connection broke. Returns the calls whose copies may still arrive.
    pub(super) fn disconnect(&mut self) -> Vec<Call> {
        let lost: Vec<Call> = self.wire.drain(..).collect();
        let answered: Vec<Call> = self.replies.drain(..).map(|(call, _)| call).collect();
        let mut again = Vec::new();
        for op in answered.iter().chain(&lost).flat_map(|call| &call.ops) {
            match op {
                Op::Acquire { attempt, .. } => {
                    let Some(attempt) = self.attempts.get_mut(attempt) else { continue };
                    attempt.in_flight -= 1;
                    attempt.unanswered = true;
                    attempt.pending = false;
                }
                Op::Look { attempt, .. } => {
                    if let Some(attempt) = self.attempts.get_mut(attempt) {
                        attempt.next_look = 0;
                    }
                }
                Op::Life => self.next_life = 0,
                op => again.push(op.clone()),
            }
        }
        again.into_iter().rev().for_each(|op| self.ops.push_front(op));
        self.all_ask();
        lost
    }

    /// Messages may have been lost: every waiter asks.
    pub(super) fn all_ask(&mut self) {
        let all: Vec<Id> = self.attempts.keys().copied().collect();
        all.into_iter().for_each(|id| self.ask(id));
    }

    /// Reads a reply. Returns the attempts that got a lock, and those that are confirmed to have nothing any more.
    pub(super) fn receive(&mut self, now: u64) -> Vec<Id> {
        let (call, answers) = self.replies.pop_front().unwrap();
        let mut confirmed = Vec::new();
        for (op, answer) in call.ops.iter().zip(answers) {
            match (op, answer) {
                (Op::Acquire { attempt, key, .. }, Answer::Text(text)) => {
                    let text = self.without_more(*key, text);
                    self.acquire_answered(*attempt, &text, call.sent, now);
                }
                (Op::Release { attempt, key, .. }, Answer::Text(text)) => {
                    let text = self.without_more(*key, text);
                    assert!(["0", "1"].contains(&&*text), "{text}");
                    if self.attempts.remove(attempt).is_some() {
                        confirmed.push(*attempt);
                    }
                }
                (Op::Admit { key }, Answer::Text(text)) => {
                    self.without_more(*key, text);
                }
                (Op::Renew { attempt, .. }, Answer::Text(text)) => {
                    let Some(held) = self.attempts.get_mut(attempt).filter(|held| held.stage == Stage::Held) else {
                        continue;
                    };
                    if text == "1" {
                        held.deadline = held.deadline.max(call.sent + held.ttl);
                        held.next_renewal = call.sent + held.ttl / 3;
                    } else {
                        assert_eq!(text, "0");
                        self.release(*attempt);
                    }
                }
                (Op::Life, Answer::Text(text)) => {
                    if text == "n" {
                        self.attempts.values_mut().for_each(|attempt| attempt.place = None);
                    }
                    if text != "1" {
                        self.check_places = true;
                        self.attempts.values_mut().for_each(|attempt| attempt.next_look = attempt.next_look.min(now));
                    }
                }
                (Op::Look { attempt, place, mode, .. }, Answer::Seen(seen)) => {
                    self.looked(*attempt, *mode, *place, seen, call.sent, now);
                }
                (op, answer) => panic!("{op:?}: {answer:?}"),
            }
        }
        if self.ops.iter().all(|op| !matches!(op, Op::Look { .. })) {
            self.check_places = false;
        }
        confirmed
    }

    /// An answer without the mark that a step remains to be done.
    fn without_more(&mut self, key: usize, text: String) -> String {
        match text.strip_suffix('m') {
            Some(rest) => {
                self.ops.push_back(Op::Admit { key });
                rest.to_owned()
            }
            None => text,
        }
    }

    fn acquire_answered(&mut self, id: Id, text: &str, sent: u64, now: u64) {
        let jitter = self.jitter;
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        attempt.in_flight -= 1;
        attempt.pending = false;
        if attempt.stage == Stage::Ended {
            return;
        }
        match &text[..1] {
            "g" => {
                // By a message already: this proves more.
                attempt.epoch = text[1..].parse().unwrap();
                attempt.deadline = attempt.deadline.max(sent + attempt.ttl);
                attempt.next_renewal = sent + attempt.ttl / 3;
                attempt.stage = Stage::Held;
            }
            "b" | "d" => self.release(id),
            "q" => {
                let fields: Vec<&str> = text[1..].split(':').collect();
                let left: i64 = fields[0].parse().unwrap();
                attempt.queued = attempt.queued.max(Some(sent));
                attempt.fence = attempt.fence.max(fields[1].parse().unwrap_or(0));
                attempt.place = Some(fields[2].parse().unwrap());
                if attempt.stage == Stage::Held && attempt.epoch > attempt.fence {
                    return;
                }
                // If a message gave it the lock, that hold had ended before this request arrived.
                attempt.stage = Stage::Waiting;
                attempt.next_look = now + SECOND - jitter;
                attempt.asks = attempt.mode == 'l' && fields[3].contains('f');
                if fields[3].contains('o') {
                    attempt.next_look = now + SECOND / 10;
                }
                if fields[3].contains('f') && left >= 0 {
                    attempt.next_look = attempt.next_look.min(now + left as u64 * 1000 + 2000);
                }
            }
            _ => panic!("{text}"),
        }
    }

    fn looked(&mut self, id: Id, mode: char, place: bool, seen: Seen, sent: u64, now: u64) {
        let next = now + SECOND - self.jitter;
        let Some(attempt) = self.attempts.get_mut(&id).filter(|attempt| attempt.stage == Stage::Waiting) else {
            return;
        };
        attempt.next_look = next;
        if mode == 'l' && (seen.leads || attempt.looks.is_multiple_of(5)) {
            return self.ask(id);
        }
        let others = seen.value.as_deref().filter(|value| value.get(34..37).is_some_and(|mode| mode == "x2:"));
        let period = seen.value.as_deref().and_then(|value| value.split_once(":2:"));
        let epoch = match (others, period) {
            (Some(value), _) if value[..33] != attempt.claim[..33] => {
                value[37..].split(':').next().unwrap().parse().ok()
            }
            (None, Some((_, epoch))) if !seen.shares => epoch.parse().ok(),
            _ => None,
        };
        match epoch {
            // Held by another, at the time of this look: what was given before that is over.
            Some(epoch) if !place || seen.place => {
                attempt.queued = attempt.queued.max(Some(sent));
                if self.careless != Careless::LooksWithoutEpoch {
                    attempt.fence = attempt.fence.max(epoch);
                }
            }
            _ => self.ask(id),
        }
    }

    /// Hears a message.
    pub(super) fn hear(&mut self, text: &str, now: u64) {
        let id = u64::from_str_radix(&text[1..17], 16).unwrap();
        let Some(attempt) = self.attempts.get_mut(&id) else {
            // Unknown: a hold that nobody wants. The walk's registry has its claim; a client sends the id alone.
            return;
        };
        match (&text[..1], attempt.stage) {
            ("g", Stage::Waiting) => {
                let epoch: u64 = text[17..].parse().unwrap();
                let dated = match self.careless {
                    Careless::DatesByReceipt => now,
                    _ => attempt.queued.or(attempt.first_sent).unwrap(),
                };
                let ttl = attempt.ttl.min(HANDOVER);
                if epoch > attempt.fence && !attempt.announced && now - dated <= ttl / 2 {
                    attempt.epoch = epoch;
                    attempt.deadline = dated + ttl;
                    attempt.next_renewal = now;
                    attempt.stage = Stage::Held;
                } else {
                    self.ask(id);
                }
                if let Some(attempt) = self.attempts.get_mut(&id) {
                    attempt.announced = true;
                }
            }
            ("l", Stage::Held) => attempt.next_renewal = now,
            _ => {}
        }
    }
}
