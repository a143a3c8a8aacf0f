//! The late write of a holder that was paused past its lease is refused: `cargo run --example fence_gate [URL]`.
//!
//! No lock can prevent a late write: between the last check of `is_lost()` and the write, a process may be stopped for any time. The
//! resource can: each write carries the fencing token, and the resource refuses a token smaller than the greatest so far. Here the
//! resource is a file of this process, behind a `FenceGate`. See `etcd_compare` and `redis_fence` for servers; in a database it is a
//! condition: `UPDATE … SET text = …, token = 7 WHERE id = … AND token <= 7`.

use std::error::Error;
use std::time::Duration;

use leasehold::{FenceGate, LockManager};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://fence_gate".into());
    let (slow, quick) = (LockManager::connect(&url).await?, LockManager::connect(&url).await?);
    let file = FenceGate::new(Vec::new());

    // A lease that is not renewed, as if this process were stopped by a debugger, a hypervisor or a full disk.
    let paused = slow.lock("file").ttl(Duration::from_secs(1)).auto_renew(false).await?;
    file.enter(paused.token(), |lines| lines.push("the first, in time"))?;
    println!("the first writes with token {}, and then it is paused", paused.token());

    // Waits until the lease has ended.
    let guard = quick.lock("file").await?;
    file.enter(guard.token(), |lines| lines.push("the second"))?;
    println!("the second writes with token {}", guard.token());

    println!("the first resumes where it was paused");
    match file.enter(paused.token(), |lines| lines.push("the first, too late")) {
        Ok(()) => return Err("the late write was admitted".into()),
        Err(refused) => println!("it is refused: {refused}"),
    }
    println!("a check would have shown it: lost is {}", paused.is_lost());
    println!("the file: {:?}", file.into_inner());
    Ok(())
}
