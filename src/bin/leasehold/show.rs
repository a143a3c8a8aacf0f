//! `leasehold ls`, `who` and `watch`: the held locks and their holders.

use std::time::SystemTime;

use leasehold::backend::ErrorKind;
use leasehold::{LockError, LockManager, Printable};

use super::exit::{Ended, print, say};
use super::json;
use super::table::{Row, table, time};

pub(crate) async fn list(manager: &LockManager, prefix: &str, json: bool) -> Ended {
    let rows: Vec<Row> = manager.list(prefix).await?.into_iter().map(Row::from).collect();
    print(if json { json::pretty(&rows)? } else { table(&rows) })?;
    Ok(0)
}

pub(crate) async fn who(manager: &LockManager, key: &str, json: bool) -> Ended {
    let row = manager.info(key).await?.map(Row::from);
    print(match &row {
        _ if json => json::pretty(&row)?,
        Some(row) => table(std::slice::from_ref(row)),
        None => format!("{} is free", Printable(key)),
    })?;
    Ok(u8::from(row.is_none()))
}

pub(crate) async fn watch(manager: &LockManager, key: &str, json: bool) -> Ended {
    let mut states = manager.watch(key);
    let (mut is_away, mut last) = (false, None);
    while let Some(state) = states.next().await {
        let row = match state {
            Ok(info) => info.map(Row::from),
            Err(error @ LockError::Backend { kind: ErrorKind::Unreachable, .. }) => {
                if !std::mem::replace(&mut is_away, true) {
                    say(format_args!("{error}; retrying"));
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if std::mem::take(&mut is_away) {
            say("the server answers again");
        }
        let shown = row.as_ref().map(Row::identity);
        if last.as_ref() == Some(&shown) {
            continue;
        }
        last = Some(shown);
        let (now, key) = (time(SystemTime::now()).unwrap_or_default(), Printable(key));
        let line = match &row {
            _ if json => json::line(&serde_json::json!({ "at": now, "lock": row }))?,
            Some(row) => format!("{now}  {key}  {}  {}", row.mode(), row.published()),
            None => format!("{now}  {key}  free"),
        };
        if !print(line)? {
            return Ok(0);
        }
    }
    Ok(0)
}
