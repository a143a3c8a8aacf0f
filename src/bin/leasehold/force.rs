//! `leasehold force-unlock`: revokes a lock from its holder.

use std::io::Write;

use leasehold::{LockInfo, LockManager, Printable};

use super::args::ForceUnlock;
use super::exit::{Ended, print, say};
use super::json;
use super::table::names;

pub(crate) async fn unlock(manager: &LockManager, args: ForceUnlock, json: bool) -> Ended {
    let key = Printable(&args.key);
    let mut force = manager.force_unlock(&args.key);
    if args.key_only {
        force = force.key_only();
    }
    if !args.yes {
        let Some(info) = manager.info(&args.key).await? else {
            say(format_args!("{key} is free"));
            return Ok(0);
        };
        force = force.expecting(&info);
        if !confirmed(&question(manager, &info, args.key_only).await?)? {
            say("not revoked");
            return Ok(1);
        }
    }
    let eviction = force.await?;
    let taken = !eviction.released.is_empty();
    // The holders that were shown do not hold it any more; another client may.
    let now = if taken || args.yes { None } else { manager.info(&args.key).await? };
    if json {
        print(json::pretty(&eviction)?)?;
    } else if taken {
        let released: Vec<_> = eviction.released.iter().map(|key| Printable(key).to_string()).collect();
        print(format_args!("revoked from {}: {}", names(&eviction.holders), released.join(", ")))?;
    } else if now.is_none() {
        print(format_args!("{key} was free"))?;
    }
    if let Some(now) = &now {
        say(format_args!("{key} is now held by {}: not revoked", names(&now.holders)));
    }
    Ok(u8::from(now.is_some()))
}

/// The question, which names the holder and the locks that would be released too.
async fn question(manager: &LockManager, info: &LockInfo, key_only: bool) -> leasehold::Result<String> {
    let mut question = format!("{} is held by {}\n", Printable(&info.key), names(&info.holders));
    if !key_only && !info.holders.is_empty() {
        let locks = manager.list("").await?;
        let of_theirs = |holders: &[_]| holders.iter().any(|holder| info.holders.contains(holder));
        for other in locks.iter().filter(|lock| lock.key != info.key && of_theirs(&lock.holders)) {
            let other = Printable(&other.key);
            question += &format!("  which also holds {other}: on etcd this is released too if it has the same TTL\n");
        }
    }
    Ok(question + "Revoke it? [y/N] ")
}

/// Asks for confirmation. Without an answer, it is not confirmed.
fn confirmed(question: &str) -> std::io::Result<bool> {
    write!(std::io::stderr(), "{question}")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
