//! The printed form of locks, as a table and as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::{format_duration, format_rfc3339_seconds};
use leasehold::{Holder, LockInfo, Mode, Printable};
use serde::Serialize;

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    key: String,
    mode: Mode,
    holders: Vec<Holder>,
    values: Vec<Option<String>>,
    limit: Option<u32>,
    since: Option<String>,
    remaining_ms: Option<u64>,
    waiters: usize,
    token: Option<String>,
    foreign: bool,
}

impl From<LockInfo> for Row {
    fn from(info: LockInfo) -> Self {
        let LockInfo { key, mode, token, since, remaining, holders, values, limit, waiters, foreign, .. } = info;
        Self {
            key,
            mode,
            holders,
            values,
            limit,
            since: since.and_then(time),
            remaining_ms: remaining.and_then(|left| u64::try_from(left.as_millis()).ok()),
            waiters,
            token: token.map(|token| token.to_string()),
            foreign,
        }
    }
}

impl Row {
    /// What tells a state of the lock from another one: all but the time that is left, and the waiters.
    pub(super) fn identity(&self) -> Self {
        Self { remaining_ms: None, waiters: 0, ..self.clone() }
    }

    /// The holders and what they publish.
    pub(super) fn published(&self) -> String {
        let values: Vec<_> = self.values.iter().flatten().map(|value| format!("{value:?}")).collect();
        let names = names(&self.holders);
        if values.is_empty() { names } else { format!("{names}: {}", Printable(&values.join(", "))) }
    }

    /// The holders, the time of the grant, and the number of waiters. The reader of this waits, so there is at least one.
    pub(super) fn held(&self) -> String {
        let since = self.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
        let mode = if self.mode == Mode::Shared { format!(" ({})", self.mode()) } else { String::new() };
        format!("held by {}{since}{mode}, {} waiting", self.published(), self.waiters.max(1))
    }

    pub(super) fn mode(&self) -> String {
        match (self.mode, self.limit) {
            (Mode::Exclusive, _) => "exclusive".to_owned(),
            (Mode::Shared, None) => "shared".to_owned(),
            (Mode::Shared, Some(limit)) => format!("{} of {limit} slots", self.holders.len()),
        }
    }

    fn cells(&self) -> [String; COLUMNS.len()] {
        let unknown = || "-".to_owned();
        [
            Printable(&self.key).to_string(),
            self.mode(),
            self.published(),
            self.since.clone().unwrap_or_else(unknown),
            self.remaining_ms.map_or_else(unknown, |left| format_duration(Duration::from_millis(left)).to_string()),
            self.waiters.to_string(),
        ]
    }
}

const COLUMNS: [&str; 6] = ["KEY", "MODE", "HOLDER", "SINCE", "REMAINING", "WAITING"];

/// A table with a heading. The length of its cells is bounded.
pub(super) fn table(rows: &[Row]) -> String {
    let lines: Vec<_> = std::iter::once(COLUMNS.map(str::to_owned)).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..COLUMNS.len()).map(width).collect();
    let line = |cells: &[String; COLUMNS.len()]| {
        let padded: Vec<_> = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The names of the holders. A foreign client has none.
pub(super) fn names(holders: &[Holder]) -> String {
    let name = |holder: &Holder| (*holder != Holder::default()).then(|| holder.to_string());
    let known: Vec<_> = holders.iter().filter_map(name).collect();
    if known.is_empty() { "(not leasehold)".to_owned() } else { Printable(&known.join(", ")).to_string() }
}

/// A time in RFC 3339, between the years 1970 and 9999. A server may report any other time.
pub(super) fn time(at: SystemTime) -> Option<String> {
    const YEAR_10_000: u64 = 253_402_300_800;
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    (since.as_secs() < YEAR_10_000).then(|| format_rfc3339_seconds(at).to_string())
}

#[cfg(test)]
mod tests {
    use leasehold::FencingToken;

    use super::*;

    fn info(key: &str, holders: Vec<Holder>) -> LockInfo {
        let mut info = LockInfo::new(key, Mode::Exclusive);
        info.holders = holders;
        info
    }

    fn cells(info: LockInfo) -> [String; COLUMNS.len()] {
        Row::from(info).cells()
    }

    #[test]
    fn times_that_have_no_date_are_unknown() {
        let date = |seconds: u64| time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(date(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(date(253_402_300_799).as_deref(), Some("9999-12-31T23:59:59Z"));
        assert_eq!(date(253_402_300_800), None);
        assert_eq!(date(u64::MAX / 1000), None);
        assert_eq!(time(UNIX_EPOCH - Duration::from_nanos(1)), None);
        let mut odd = info("k", vec![Holder::new("n", "h", 1)]);
        odd.since = Some(UNIX_EPOCH + Duration::from_millis(u64::MAX));
        odd.remaining = Some(Duration::MAX);
        odd.waiters = usize::MAX;
        assert_eq!(cells(odd.clone())[3..5], ["-", "-"]);
        odd.since = Some(UNIX_EPOCH - Duration::from_secs(1));
        odd.remaining = Some(Duration::from_millis(u64::MAX));
        assert_eq!(cells(odd.clone())[3], "-");
        let plain = info("plain", vec![Holder::new("n", "h", 1)]);
        assert_eq!(table(&[odd.into(), plain.into()]).lines().count(), 3);
    }

    #[test]
    fn names_are_escaped_and_cut() {
        let hostile = "\u{1b}[2J\n\u{202e}";
        let escaped = r"\u{1b}[2J\u{a}\u{202e}";
        let row = cells(info(hostile, vec![Holder::new(hostile, hostile, 7)]));
        assert_eq!(row[0], escaped);
        assert_eq!(row[2], format!("{escaped} (pid 7 on {escaped})"));
        assert_eq!(cells(info("k", vec![Holder::default()]))[2], "(not leasehold)");
        let readers = |_| Holder::new("n".repeat(1000), "h".repeat(1 << 20), 1);
        let many = info(&"k".repeat(1 << 20), (0..400).map(readers).collect());
        let table = table(&[many.into(), info("last", Vec::new()).into()]);
        assert!(table.lines().all(|line| line.chars().count() < 700), "{table}");
        assert!(table.lines().last().unwrap().starts_with("last "), "{table}");
    }

    #[test]
    fn json_has_all_of_it() {
        let name = format!("\u{1b}\u{202e}{}", "n".repeat(1000));
        let mut odd = info("a\n\"b\"", vec![Holder::new(name.clone(), "h", 7)]);
        odd.token = Some(FencingToken::from(u64::MAX));
        odd.since = Some(UNIX_EPOCH + Duration::from_millis(u64::MAX));
        let json = serde_json::to_string(&Row::from(odd)).unwrap();
        let back: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&back["key"], &back["holders"][0]["name"]), (&"a\n\"b\"".into(), &name.into()));
        assert_eq!((&back["since"], &back["token"]), (&serde_json::Value::Null, &u64::MAX.to_string().into()));
    }
}
