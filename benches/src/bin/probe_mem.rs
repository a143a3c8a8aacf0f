use leasehold::LockManager;
use std::time::Instant;
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (what, n) = (args[1].as_str(), args[2].parse::<usize>().unwrap());
    let manager = LockManager::memory();
    let handle = manager.handle("k").unwrap();
    let t = Instant::now();
    match what {
        "drop" => for _ in 0..n { drop(handle.lock().await.unwrap()); },
        "unlock" => for _ in 0..n { handle.lock().await.unwrap().unlock().await.unwrap(); },
        "reenter" => { let _g = handle.lock().await.unwrap(); for _ in 0..n { drop(handle.lock().await.unwrap()); } }
        "lost" => { let g = handle.lock().await.unwrap(); for _ in 0..n { assert!(!g.is_lost()); } }
        "manager" => for _ in 0..n { drop(manager.lock("k").await.unwrap()); },
        _ => {
            let tasks: usize = args[3].parse().unwrap();
            let mut joins = Vec::new();
            for _ in 0..tasks { let handle = manager.handle("k").unwrap(); joins.push(tokio::spawn(async move { for _ in 0..n / tasks { let g = handle.lock().await.unwrap(); tokio::task::yield_now().await; drop(g); } })); }
            for j in joins { j.await.unwrap(); }
        }
    }
    println!("{what}: {:.0} ns", t.elapsed().as_nanos() as f64 / n as f64);
}
