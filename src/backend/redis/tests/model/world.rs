//! A server, managers, and what is on the way between them; the rules that hold at any time.

use std::collections::{BTreeMap, BTreeSet};

use redis::Connection;

use super::super::super::script::Kind;
use super::manager::{Answer, Attempt, Call, Careless, Id, Manager, Op, SECOND, Seen, Stage};
use super::server::{Defect, Server, common, keys_of, lives, lock, side, text};

pub(super) const KEYS: usize = 2;
pub(super) const START: u64 = 1_800_000_000 * SECOND;

/// A lock as the server has it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) value: Option<String>,
    pub(super) queue: Vec<(String, u64)>,
    pub(super) readers: Vec<(String, u64)>,
    pub(super) ears: Vec<(String, u64)>,
}

impl State {
    /// The lock's value, and who shares it.
    fn holders(&self, now: u64) -> (Option<&str>, Vec<&str>) {
        let value = self.value.as_deref();
        let is_shared = value.is_some_and(|value| value.starts_with("shared:") || value.starts_with("limited:"));
        let live = self.readers.iter().filter(|(_, ends)| is_shared && *ends > now / 1000);
        let mut live: Vec<_> = live.map(|(claim, _)| &claim[..33]).collect();
        live.sort_unstable();
        (value, live)
    }
}

pub(super) struct World {
    pub(super) server: Server,
    pub(super) now: u64,
    pub(super) managers: Vec<Manager>,
    /// Copies of requests, with the manager that sent them.
    pub(super) ghosts: Vec<(Call, u64)>,
    /// Messages on their way: to whom, the text.
    pub(super) messages: Vec<(u64, String)>,
    pub(super) lives: BTreeMap<String, u64>,
    /// The attempts that hold a lock in the eyes of the server, by key, with their epochs.
    pub(super) last_epoch: [u64; KEYS],
    pub(super) epochs: BTreeMap<(usize, u64), String>,
    /// Attempts that were given up, and have nothing as far as the server has confirmed.
    pub(super) ended: BTreeSet<Id>,
    /// The keys and epochs of holds that were evicted: their holders may believe until they know.
    pub(super) evicted: BTreeSet<(usize, u64)>,
    /// The keys and epochs of all slots that were given.
    pub(super) slots: BTreeSet<(usize, u64)>,
    pub(super) foreign: [u64; KEYS],
    pub(super) log: Vec<String>,
    pub(super) granted: usize,
    pub(super) careless: Careless,
}

impl World {
    pub(super) fn new(connection: Connection, defect: Option<Defect>, careless: Careless) -> Self {
        let mut server = Server::new(connection, defect);
        server.clear(START);
        Self {
            server,
            now: START,
            managers: Vec::new(),
            ghosts: Vec::new(),
            messages: Vec::new(),
            lives: BTreeMap::new(),
            last_epoch: [0; KEYS],
            epochs: BTreeMap::new(),
            ended: BTreeSet::new(),
            evicted: BTreeSet::new(),
            slots: BTreeSet::new(),
            foreign: [0; KEYS],
            log: Vec::new(),
            granted: 0,
            careless,
        }
    }

    pub(super) fn restart(&mut self) {
        self.now = START;
        self.server.clear(START);
        self.managers.clear();
        self.ghosts.clear();
        self.messages.clear();
        self.last_epoch = [0; KEYS];
        self.epochs.clear();
        self.ended.clear();
        self.evicted.clear();
        self.slots.clear();
        self.foreign = [0; KEYS];
        self.log.clear();
        self.granted = 0;
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        let now = (self.now - START) / 1000;
        self.log.push(format!("{now:>6} {}", text()));
    }

    #[track_caller]
    pub(super) fn fail(&self, what: &str) -> ! {
        panic!("{what}\n{}", self.log[self.log.len().saturating_sub(22)..].join("\n"));
    }

    pub(super) fn pass(&mut self, time: u64) {
        self.now += time;
        self.server.set_time(self.now);
    }

    pub(super) fn state(&mut self, key: usize) -> State {
        let (ears, queue) = self.server.members(&side("q2", key)).into_iter().partition(|(member, _)| is_ear(member));
        State { value: self.server.get(&lock(key)), queue, readers: self.server.members(&side("r2", key)), ears }
    }

    /// Whoever holds a lock is about to lose it.
    pub(super) fn forfeit(&mut self, key: usize) {
        if let Some(value) = self.state(key).value {
            let epoch = value.split(':').nth(if value.get(34..37) == Some("x2:") { 3 } else { 2 });
            self.evicted.extend(epoch.and_then(|epoch| epoch.parse().ok()).map(|epoch| (key, epoch)));
        }
        self.evicted.extend(self.slots.iter().filter(|(of, _)| *of == key));
        self.foreign[key] = 0;
    }

    /// The server runs a call.
    pub(super) fn perform(&mut self, manager: u64, call: &Call) -> Vec<Answer> {
        let touched: BTreeSet<usize> = call.ops.iter().filter_map(key_of).collect();
        let before: Vec<(usize, State)> = touched.iter().map(|key| (*key, self.state(*key))).collect();
        self.lives = self.server.members(&lives()).into_iter().collect();
        let answers = match call.ops[0].kind() {
            Some(kind) => self.run(kind, manager, call),
            None => call.ops.iter().map(|op| self.look(op)).collect(),
        };
        self.note(|| format!("{manager:x} {:?} -> {answers:?}", call.ops));
        let messages = self.server.messages();
        for (key, before) in before {
            self.check(key, &before, call, &answers, &messages);
        }
        for (to, text) in messages {
            self.note(|| format!("message to {to:x}: {text}"));
            self.messages.push((to, text));
        }
        answers
    }

    pub(super) fn run(&mut self, kind: Kind, manager: u64, call: &Call) -> Vec<Answer> {
        let channel = || "lock:%wake:".to_owned();
        let (mut keys, mut args) = (keys_of(manager, call.ops.iter().filter_map(key_of)), vec![channel()]);
        match kind {
            Kind::Life => (keys, args) = (vec![lives()], vec![format!("{manager:016x}")]),
            Kind::Renew => (keys, args) = (Vec::new(), Vec::new()),
            _ => {}
        }
        let parts = call.ops.iter().filter_map(|op| match op {
            Op::Acquire { claim, wanted, .. } => Some((&**claim, wanted.clone())),
            Op::Release { claim, tombstone, .. } => Some((&**claim, tombstone.to_string())),
            _ => None,
        });
        let parts: Vec<(&str, String)> = parts.collect();
        if !parts.is_empty() {
            args.push(common(kind, parts.iter().map(|(claim, word)| (*claim, &**word))));
        }
        for op in &call.ops {
            match op {
                Op::Acquire { claim, wanted, .. } => args.push(format!("{wanted} {claim}")),
                Op::Release { claim, tombstone, .. } => args.push(format!("{tombstone} {claim}")),
                Op::Renew { claim, key, epoch, ttl, .. } => {
                    keys.push(lock(*key));
                    if claim.as_bytes()[34] != b'x' {
                        keys.push(side("r2", *key));
                    }
                    args.extend([claim.clone(), epoch.to_string(), (ttl / 1000).to_string()]);
                }
                Op::Admit { .. } | Op::Life | Op::Look { .. } => {}
            }
        }
        self.server.run(kind, &keys, &args).iter().map(|answer| Answer::Text(text(answer))).collect()
    }

    pub(super) fn look(&mut self, op: &Op) -> Answer {
        let Op::Look { claim, key, mode, prolong, .. } = op else { panic!("{op:?}") };
        let value = self.server.get(&lock(*key));
        let place = self.server.score(&side("q2", *key), claim).is_some();
        let shares = *mode != 'x' && self.server.score(&side("r2", *key), claim).is_some();
        let leads = self.state(*key).queue.first().is_some_and(|(first, _)| first == claim);
        if *prolong {
            self.server.command(&["PEXPIRE", &side("q2", *key), "60000"]);
        }
        Answer::Seen(Seen { value, place, shares, leads })
    }

    /// Checks what a call has done to a lock.
    pub(super) fn check(
        &mut self,
        key: usize,
        before: &State,
        call: &Call,
        answers: &[Answer],
        messages: &[(u64, String)],
    ) {
        let after = self.state(key);
        let mut granted: Vec<(String, u64)> = Vec::new();
        for (op, answer) in call.ops.iter().zip(answers) {
            if let (Op::Acquire { claim, key: of, .. }, Answer::Text(text)) = (op, answer)
                && *of == key
                && let Some(epoch) = text.strip_prefix('g')
            {
                granted.push((claim[..33].to_owned(), epoch.trim_end_matches('m').parse().unwrap()));
            }
        }
        for (to, text) in messages {
            let id = format!("{to:016x}:{}", &text[1..17]);
            let is_here = before.queue.iter().any(|(claim, _)| claim[..33] == id);
            if text.starts_with('g') && is_here {
                granted.push((id, text[17..].parse().unwrap()));
            }
        }
        granted.sort_unstable();
        // By a message, and then by the answer to a later operation of the same call.
        granted.dedup();
        granted.sort_by_key(|(_, epoch)| *epoch);
        let slots = after.readers.iter().filter(|(claim, _)| claim.as_bytes()[34] == b'l');
        for (claim, _) in slots {
            let given = granted.iter().filter(|(id, _)| claim.starts_with(&**id));
            self.slots.extend(given.map(|(_, epoch)| (key, *epoch)));
        }
        let had = |id: &str| {
            before.value.as_deref().is_some_and(|value| value.starts_with(id))
                || before.readers.iter().any(|(claim, ends)| claim.starts_with(id) && *ends > self.now / 1000)
                    && before.value.as_deref().is_some_and(|value| value.contains(":2:") && !value.contains(":x2:"))
        };
        let caller = match &call.ops[0] {
            Op::Acquire { claim, .. } => claim[..16].to_owned(),
            _ => String::new(),
        };
        for (id, epoch) in &granted {
            if had(id) {
                continue;
            }
            self.granted += 1;
            // One that comes back to its old place is not late.
            let wanted = call.ops.iter().find_map(|op| match op {
                Op::Acquire { claim, wanted, .. } if claim.starts_with(&**id) => {
                    wanted.parse().ok().filter(|place| *place > 0)
                }
                _ => None,
            });
            let known = before.queue.iter().find(|(claim, _)| claim.starts_with(&**id)).map(|(_, place)| *place);
            let place = known.into_iter().chain(wanted).min().unwrap_or(u64::MAX);
            for (claim, ahead) in &before.queue {
                let other = claim[..33].to_owned();
                let lives =
                    self.lives.get(&claim[..16]).is_some_and(|ends| *ends > self.now / 1000) || claim[..16] == caller;
                let left = call.ops.iter().any(|op| matches!(op, Op::Release { claim, .. } if claim[..33] == other));
                if *ahead < place && lives && !left && granted.iter().all(|(granted, _)| *granted != other) {
                    self.fail(&format!("{id} overtakes {claim}"));
                }
            }
            let exclusive = messages.iter().any(|(_, text)| text.contains(&id[17..])) && before.queue.iter().any(|(claim, _)| claim.starts_with(&**id) && claim.as_bytes()[34] == b'x')
                || call.ops.iter().any(|op| matches!(op, Op::Acquire { claim, .. } if claim.starts_with(&**id) && claim.as_bytes()[34] == b'x'));
            if exclusive {
                if let Some(other) = self.epochs.insert((key, *epoch), id.clone()).filter(|other| other != id) {
                    self.fail(&format!("{id} and {other} share the epoch {epoch}"));
                }
                if *epoch <= self.last_epoch[key] {
                    self.fail(&format!("{id} has epoch {epoch} after {}", self.last_epoch[key]));
                }
            } else if *epoch < self.last_epoch[key] {
                self.fail(&format!("{id} shares with epoch {epoch} after {}", self.last_epoch[key]));
            }
            self.last_epoch[key] = self.last_epoch[key].max(*epoch);
        }
        self.check_limits(key, before, &after, &granted);
        self.check_ears(before, &after, messages);
        let value = after.value.as_deref().filter(|value| value.get(34..37) == Some("x2:"));
        let claims = value.into_iter().chain(after.queue.iter().map(|(claim, _)| &**claim));
        let readers = after.readers.iter().filter(|(_, ends)| *ends > self.now / 1000);
        for claim in claims.chain(readers.map(|(claim, _)| &**claim)) {
            let id = u64::from_str_radix(&claim[17..33], 16).unwrap();
            if self.ended.contains(&id) {
                self.fail(&format!("{claim} is back"));
            }
        }
    }

    /// Checks that each slot which was granted was free for its claim.
    fn check_limits(&self, key: usize, before: &State, after: &State, granted: &[(String, u64)]) {
        let live = |state: &State| -> Vec<String> {
            let live = state.readers.iter().filter(|(_, ends)| *ends > self.now / 1000);
            live.map(|(claim, _)| claim.clone()).collect()
        };
        let (known, live) = (live(before), live(after));
        let is_new = |claim: &&String| !known.contains(claim) && granted.iter().any(|(id, _)| claim.starts_with(&**id));
        let new = live.iter().filter(is_new);
        let limits: Vec<usize> = new.filter_map(|claim| claim.split(':').nth(9)?.parse().ok()).collect();
        let (Some(least), Some(most)) = (limits.iter().min(), limits.iter().max()) else { return };
        if live.len() > *most || live.len() - (limits.len() - 1) > *least {
            self.fail(&format!("k{key} has too many holders: {live:#?}"));
        }
    }

    /// Checks that each ear was notified of what it listens for, and removed.
    fn check_ears(&self, before: &State, after: &State, messages: &[(u64, String)]) {
        let is_new = |(claim, _): &&(String, u64)| before.queue.iter().all(|(known, _)| known != claim);
        let kinds = [
            ("o:", before.holders(self.now) != after.holders(self.now)),
            ("w:", after.queue.iter().any(|place| is_new(&place))),
        ];
        let due = kinds.into_iter().filter(|(_, has_happened)| *has_happened);
        for (ear, _) in due.flat_map(|(kind, _)| before.ears.iter().filter(move |(ear, _)| ear.starts_with(kind))) {
            let message = (u64::from_str_radix(&ear[2..18], 16).unwrap(), format!("o{}", &ear[19..]));
            if !messages.contains(&message) || after.ears.iter().any(|(left, _)| left == ear) {
                self.fail(&format!("{ear} was not notified"));
            }
        }
    }

    /// An ear for the next change of a lock, or for its next waiter if it is held.
    pub(super) fn listen(&mut self, key: usize, ear: u64) {
        let manager = self.managers[0].id;
        let kind = if ear.is_multiple_of(2) { 'o' } else { 'w' };
        let (keys, ear) = (keys_of(manager, [key].into_iter()), format!("{kind}:{manager:016x}:{ear:016x}"));
        let mut attempts = self.managers.iter().flat_map(|manager| manager.attempts.values());
        let holder = attempts.find(|attempt| attempt.key == key && attempt.stage == Stage::Held);
        match (kind, holder.map(|holder| holder.claim.clone())) {
            ('w', None) => {}
            ('w', Some(claim)) => {
                let answer = self.server.run(Kind::Listen, &keys, &["lock:%wake:".into(), format!("{ear} {claim}")]);
                self.note(|| format!("{ear} listens for waiters of k{key}: {answer:?}"));
            }
            _ => {
                self.server.run(Kind::Inspect, &keys, &["lock:%wake:".into(), ear.clone()]);
                self.note(|| format!("{ear} listens for changes of k{key}"));
            }
        }
    }

    /// Checks who believes to hold a lock.
    pub(super) fn check_beliefs(&self) {
        for key in 0..KEYS {
            let believes = |attempt: &&Attempt| {
                attempt.key == key
                    && attempt.stage == Stage::Held
                    && attempt.deadline > self.now
                    && !self.evicted.contains(&(key, attempt.epoch))
            };
            let all: Vec<&Attempt> =
                self.managers.iter().flat_map(|manager| manager.attempts.values()).filter(believes).collect();
            let count = |mode| all.iter().filter(|attempt| attempt.mode == mode).count();
            let kinds = count('x') + usize::from(count('s') > 0) + usize::from(count('l') > 0);
            let limit = all.iter().filter(|attempt| attempt.mode == 'l').map(|attempt| attempt.limit).max();
            if kinds + usize::from(self.foreign[key] > self.now) > 1 || count('l') > limit.unwrap_or(0) {
                self.fail(&format!("these hold k{key}: {all:#?}"));
            }
        }
    }

    pub(super) fn is_running(&self, manager: usize) -> bool {
        self.managers[manager].stopped_until <= self.now
    }

    /// Lets a manager do what is due.
    pub(super) fn step(&mut self, number: usize) {
        let manager = &mut self.managers[number];
        manager.tick(self.now);
        manager.send(self.now);
    }

    pub(super) fn serve(&mut self, number: usize) {
        if let Some(call) = self.managers[number].wire.pop_front() {
            let answers = self.perform(self.managers[number].id, &call);
            self.managers[number].replies.push_back((call, answers));
        }
    }

    pub(super) fn receive(&mut self, number: usize) {
        if !self.managers[number].replies.is_empty() {
            let confirmed = self.managers[number].receive(self.now);
            self.ended.extend(confirmed);
        }
    }

    pub(super) fn deliver(&mut self, number: usize) {
        let (to, text) = self.messages.remove(number);
        match self.managers.iter_mut().find(|manager| manager.id == to) {
            Some(manager) if manager.stopped_until <= self.now => manager.hear(&text, self.now),
            Some(_) => self.messages.push((to, text)),
            None => {}
        }
    }

    pub(super) fn disconnect(&mut self, number: usize) {
        let (id, lost) = (self.managers[number].id, self.managers[number].disconnect());
        self.ghosts.extend(lost.into_iter().map(|call| (call, id)));
    }

    pub(super) fn kill(&mut self, number: usize, id: u64) {
        self.disconnect(number);
        self.managers[number] = Manager::new(id, self.careless);
    }
}

/// Whether a member of a queue is an ear.
pub(super) fn is_ear(member: &str) -> bool {
    member.as_bytes()[1] == b':'
}

pub(super) fn key_of(op: &Op) -> Option<usize> {
    match op {
        Op::Acquire { key, .. }
        | Op::Release { key, .. }
        | Op::Renew { key, .. }
        | Op::Admit { key }
        | Op::Look { key, .. } => Some(*key),
        Op::Life => None,
    }
}
