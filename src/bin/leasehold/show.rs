//! `leasehold ls`, `who` and `watch`: who holds what.

use std::time::{Duration, SystemTime};

use humantime::{format_duration, format_rfc3339_seconds};
use leasehold::{Holder, LockInfo, LockManager, Mode};
use serde::Serialize;

use super::exit::Ended;

/// A lock, as it is printed.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    key: String,
    mode: Mode,
    holders: Vec<Holder>,
    since: Option<String>,
    remaining_ms: Option<u64>,
    waiters: usize,
    token: Option<String>,
    foreign: bool,
}

impl From<LockInfo> for Row {
    fn from(info: LockInfo) -> Self {
        let LockInfo { key, mode, token, since, remaining, holders, waiters, foreign, .. } = info;
        Self {
            key,
            mode,
            holders,
            since: since.map(|since| format_rfc3339_seconds(since).to_string()),
            remaining_ms: remaining.and_then(|left| u64::try_from(left.as_millis()).ok()),
            waiters,
            token: token.map(|token| token.to_string()),
            foreign,
        }
    }
}

impl Row {
    /// Whether somebody else holds it than in another row.
    fn has_changed(&self, other: &Self) -> bool {
        (&self.holders, self.mode, &self.since, self.foreign)
            != (&other.holders, other.mode, &other.since, other.foreign)
    }

    fn mode(&self) -> &'static str {
        match self.mode {
            Mode::Exclusive => "exclusive",
            Mode::Shared => "shared",
        }
    }

    fn cells(&self) -> [String; COLUMNS.len()] {
        let unknown = || "-".to_owned();
        [
            self.key.clone(),
            self.mode().to_owned(),
            names(&self.holders),
            self.since.clone().unwrap_or_else(unknown),
            self.remaining_ms.map_or_else(unknown, |left| format_duration(Duration::from_millis(left)).to_string()),
            self.waiters.to_string(),
        ]
    }
}

const COLUMNS: [&str; 6] = ["KEY", "MODE", "HOLDER", "SINCE", "REMAINING", "WAITING"];

/// The holders in a word or two. A foreign client does not say who it is.
pub(super) fn names(holders: &[Holder]) -> String {
    let name = |holder: &Holder| (*holder != Holder::default()).then(|| holder.to_string());
    let known: Vec<_> = holders.iter().filter_map(name).collect();
    if known.is_empty() { "(not leasehold)".to_owned() } else { known.join(", ") }
}

fn print_table(rows: &[Row]) {
    let table: Vec<_> = std::iter::once(COLUMNS.map(str::to_owned)).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| table.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..COLUMNS.len()).map(width).collect();
    for cells in table {
        let line: Vec<_> = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        println!("{}", line.join("  ").trim_end());
    }
}

pub(crate) async fn list(manager: &LockManager, prefix: &str, json: bool) -> Ended {
    let rows: Vec<Row> = manager.list(prefix).await?.into_iter().map(Row::from).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_table(&rows);
    }
    Ok(0)
}

pub(crate) async fn who(manager: &LockManager, key: &str, json: bool) -> Ended {
    let row = manager.info(key).await?.map(Row::from);
    match &row {
        _ if json => println!("{}", serde_json::to_string_pretty(&row)?),
        Some(row) => print_table(std::slice::from_ref(row)),
        None => println!("{key} is free"),
    }
    Ok(u8::from(row.is_none()))
}

pub(crate) async fn watch(manager: &LockManager, key: &str, interval: Duration, json: bool) -> Ended {
    let mut last: Option<Option<Row>> = None;
    loop {
        let row = manager.info(key).await?.map(Row::from);
        let changed = match (&last, &row) {
            (Some(Some(last)), Some(row)) => row.has_changed(last),
            (Some(None), None) => false,
            _ => true,
        };
        if changed {
            let now = format_rfc3339_seconds(SystemTime::now());
            match &row {
                _ if json => println!("{}", serde_json::json!({ "at": now.to_string(), "lock": row })),
                Some(row) => println!("{now}  {key}  {}  {}", row.mode(), names(&row.holders)),
                None => println!("{now}  {key}  free"),
            }
        }
        last = Some(row);
        tokio::time::sleep(interval).await;
    }
}
