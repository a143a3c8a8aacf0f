//! A holder that was paused past its lease writes too late, and is refused: `cargo run --example fence_gate [URL]`.
//!
//! Nothing that a lock does can prevent this: between the last look at `is_lost()` and the write, a process may be stopped for as
//! long as you like. Only what is written to can: it takes the fencing token along with each write, and refuses tokens smaller than
//! the last. Here that is a file of this process, behind a `FenceGate`. See `etcd_compare` and `redis_fence` for servers; a database
//! does it with a condition: `UPDATE … SET text = …, token = 7 WHERE id = … AND token <= 7`.

use std::error::Error;
use std::time::Duration;

use leasehold::{FenceGate, LockManager};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://fence_gate".into());
    let (slow, quick) = (LockManager::connect(&url).await?, LockManager::connect(&url).await?);
    let file = FenceGate::new(Vec::new());

    // A lease that nobody renews: so it would be if this process were stopped by a debugger, a hypervisor or a full disk.
    let paused = slow.lock("file").ttl(Duration::from_secs(1)).auto_renew(false).await?;
    file.enter(paused.token(), |lines| lines.push("the first, in time"))?;
    println!("the first writes with token {}, and then it is paused", paused.token());

    // Waits until the lease is over.
    let guard = quick.lock("file").await?;
    file.enter(guard.token(), |lines| lines.push("the second"))?;
    println!("the second writes with token {}", guard.token());

    println!("the first wakes up, and goes on where it was");
    match file.enter(paused.token(), |lines| lines.push("the first, too late")) {
        Ok(()) => return Err("the late write was let in".into()),
        Err(refused) => println!("it is refused: {refused}"),
    }
    println!("had it looked, it would have known: lost is {}", paused.is_lost());
    println!("the file: {:?}", file.into_inner());
    Ok(())
}
