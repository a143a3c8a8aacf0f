//! Answers of an etcd server, or of an impostor: parsed without a panic, and never into a token out of range.

use std::time::Duration;

use leasehold::Mode;
use leasehold::testing::{EtcdAnswers, EtcdKey, EtcdWatchAnswer};

/// The range of epochs.
const EPOCHS: std::ops::Range<u64> = 1..1 << 53;

/// Uses the bytes as parts of answers: valid, nearly valid and arbitrary names and numbers.
pub fn etcd_answers(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (prefix, key) = (bytes.pick(&["", "p/", "%"]), bytes.pick(&["k", "a/b", "read", ""]));
    let mode = if bytes.flag() { Mode::Shared } else { Mode::Exclusive };
    let answers = EtcdAnswers::new(prefix, key, mode);
    let (own, created) = answers.claim();

    let (revision, ranges) = (bytes.revision(created), bytes.ranges(&own, created));
    for epoch in [answers.read_placed(bytes.flag(), revision, &ranges), answers.read_standing(revision, &ranges)] {
        assert!(epoch.is_none_or(|epoch| EPOCHS.contains(&epoch)), "{revision:?} gave {epoch:?}");
        // A claim that is known to be older must not be skipped.
        let keys = ranges.iter().flatten().filter(|key| key.name != own);
        assert!(epoch.is_none() || keys.clone().next().is_none() || ranges.iter().any(Vec::is_empty), "{ranges:?}");
    }

    for key in ranges.iter().flatten() {
        if let Some((_, Some(holder))) = answers.read_claim(&key.name, &key.value) {
            assert!(holder.len() <= 4096);
        }
    }
    for keys in &ranges {
        if let Some(names) = answers.read_page(keys) {
            assert!(names.iter().all(|name| name.as_slice() >= prefix.as_bytes()));
        }
    }

    let watched = bytes.watch(&own, created);
    for at in answers.read_watch(&watched) {
        let notified =
            watched.iter().flat_map(|answer| &answer.events).any(|(_, key)| key.name == own && key.modified == at);
        assert!(notified && at > 0, "{watched:?} gave {at}");
    }

    let (seconds, asked) = (bytes.number(30), Duration::from_secs(30));
    if let Some(millis) = answers.read_ttl(seconds, asked) {
        assert!(seconds > 0 && (1_000..=75_000).contains(&millis), "{seconds} s gave {millis} ms");
    }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    /// The next byte, or 0 at the end.
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    fn number(&mut self, about: i64) -> i64 {
        match self.byte() % 8 {
            0..3 => about,
            3 => about + 1,
            4 => about - 1,
            5 => self.pick(&[0, -1, i64::MIN, i64::MAX, 1 << 53, (1 << 53) - 1, 1 << 54]),
            _ => i64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    fn revision(&mut self, about: i64) -> Option<i64> {
        (!self.byte().is_multiple_of(8)).then(|| self.number(about))
    }

    fn text(&mut self) -> Vec<u8> {
        let length = self.byte() % 16;
        (0..length).map(|_| self.byte()).collect()
    }

    fn key(&mut self, own: &[u8], created: i64) -> EtcdKey {
        let name = match self.byte() % 4 {
            0 | 1 => own.to_vec(),
            2 => [&own[..own.len() / 2], &self.text()].concat(),
            _ => self.text(),
        };
        let value = match self.byte() % 4 {
            0 => br#"{"v":1,"name":"n","host":"h","pid":1,"manager":"m","mode":"shared","asked_at":1}"#.to_vec(),
            1 => vec![b'x'; 5_000],
            _ => self.text(),
        };
        let (created, modified) = (self.number(created), self.number(created));
        EtcdKey { name, value, created, modified, version: self.number(1), lease: self.number(10) }
    }

    fn ranges(&mut self, own: &[u8], created: i64) -> Vec<Vec<EtcdKey>> {
        let count = self.byte() % 4;
        (0..count)
            .map(|_| {
                let count = self.byte() % 4;
                (0..count).map(|_| self.key(own, created)).collect()
            })
            .collect()
    }

    fn watch(&mut self, own: &[u8], created: i64) -> Vec<EtcdWatchAnswer> {
        let count = self.byte() % 5;
        (0..count)
            .map(|_| EtcdWatchAnswer {
                watch: self.number(1),
                revision: self.revision(created),
                created: self.flag(),
                canceled: self.flag(),
                compacted: self.number(0),
                events: (0..self.byte() % 3).map(|_| (self.pick(&[1, 0, 2, -1]), self.key(own, created))).collect(),
            })
            .collect()
    }
}
