//! `leasehold force-unlock`: taking a lock away.

use std::io::Write;

use leasehold::LockManager;

use super::args::ForceUnlock;
use super::exit::{Ended, say};
use super::show::names;

pub(crate) async fn unlock(manager: &LockManager, args: ForceUnlock, json: bool) -> Ended {
    let key = &args.key;
    if !args.yes {
        let Some(info) = manager.info(key).await? else {
            say(format_args!("{key} is free"));
            return Ok(0);
        };
        eprintln!("{key} is held by {}", names(&info.holders));
        if !args.key_only && !info.holders.is_empty() {
            let locks = manager.list("").await?;
            let of_theirs = |holders: &[_]| holders.iter().any(|holder| info.holders.contains(holder));
            let others = locks.iter().filter(|lock| lock.key != *key && of_theirs(&lock.holders));
            for other in others {
                eprintln!("  which holds {} as well: on etcd that goes along if it has the same TTL", other.key);
            }
        }
        if !confirmed()? {
            say("left alone");
            return Ok(1);
        }
    }
    let force = manager.force_unlock(key);
    let eviction = if args.key_only { force.key_only().await? } else { force.await? };
    if json {
        println!("{}", serde_json::to_string_pretty(&eviction)?);
    } else if eviction.holders.is_empty() {
        println!("{key} was free");
    } else {
        println!("taken from {}: {}", names(&eviction.holders), eviction.released.join(", "));
    }
    Ok(0)
}

fn confirmed() -> std::io::Result<bool> {
    eprint!("Take it away? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
