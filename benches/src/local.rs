//! One task in memory.

use std::hint::black_box;
use std::time::Duration;

use leasehold::LockManager;
use tokio::sync::Mutex;

use crate::Result;
use crate::contenders::Contender;
use crate::figures::Sample;
use crate::measure::repeat;
use crate::servers::Server;

pub async fn measure(contender: Contender, time: Duration) -> Result<Sample> {
    let server = Server::none();
    let handle = LockManager::memory().handle("k")?;
    match contender {
        Contender::TokioMutex => {
            let mutex = Mutex::new(());
            repeat(&server, time, async || drop(black_box(mutex.lock().await))).await
        }
        Contender::Drop => repeat(&server, time, async || drop(black_box(handle.lock().await))).await,
        Contender::Again => {
            let _outer = handle.lock().await?;
            repeat(&server, time, async || drop(black_box(handle.lock().await))).await
        }
        Contender::IsLost => {
            let guard = handle.lock().await?;
            repeat(&server, time, async || _ = black_box(guard.is_lost())).await
        }
        _ => Err(format!("{contender:?} is not local").into()),
    }
}
