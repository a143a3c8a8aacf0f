//! Locks on plain threads, without an async runtime: `cargo run --example blocking [URL]`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use leasehold::LockManager;

fn main() -> leasehold::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://blocking".into());
    let manager = LockManager::connect(&url).wait()?;
    let (inside, rounds) = (AtomicU32::new(0), AtomicU32::new(0));

    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let (manager, inside, rounds) = (&manager, &inside, &rounds);
                scope.spawn(move || -> leasehold::Result<()> {
                    for _ in 0..5 {
                        let guard = manager.lock("printer").wait()?;
                        let together = inside.fetch_add(1, Ordering::SeqCst);
                        println!("thread {number}, token {}, {together} others inside", guard.token());
                        thread::sleep(Duration::from_millis(5));
                        inside.fetch_sub(1, Ordering::SeqCst);
                        rounds.fetch_add(1, Ordering::SeqCst);
                        // Dropping the guard releases the lock, and never blocks.
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    println!("{} rounds", rounds.into_inner());

    // A thread checks is_lost() before each important step.
    let guard = manager.lock("printer").wait()?;
    LockManager::connect(&url).wait()?.force_unlock("printer").wait()?;
    while !guard.is_lost() {
        thread::sleep(Duration::from_millis(1));
    }
    match guard.unlock().wait() {
        Ok(()) => println!("released"),
        Err(error) => println!("as expected: {error} [{}]", error.code()),
    }
    Ok(())
}
