//! Measuring.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The deadline of the workers, and the number of their rounds.
pub struct Until {
    stop: AtomicBool,
    count: AtomicU64,
}

impl Until {
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub fn count(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The rounds a second of all workers together, after a warm-up.
pub async fn rate<W, F>(time: Duration, workers: impl Iterator<Item = W>) -> Result<f64>
where
    W: FnOnce(Arc<Until>) -> F,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let until = Arc::new(Until { stop: AtomicBool::new(false), count: AtomicU64::new(0) });
    let workers: Vec<_> = workers.map(|worker| tokio::spawn(worker(until.clone()))).collect();
    tokio::time::sleep(time / 8).await;
    let (before, start) = (until.count.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(time).await;
    let rate = (until.count.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64();
    until.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await??;
    }
    Ok(rate)
}

pub async fn timed(work: impl Future<Output = Result<()>>) -> Result<Duration> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed())
}

pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
