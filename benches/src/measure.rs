//! The windows in which something is measured.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::figures::{Figure, Sample};
use crate::servers::Server;
use crate::{Result, cpu};

/// The operations that all tasks have done.
#[derive(Clone, Default)]
pub struct Count(Arc<AtomicU64>);

impl Count {
    pub fn add(&self, operations: u64) {
        self.0.fetch_add(operations, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The time and the processor times at the start of a window.
struct Start {
    time: Instant,
    client: Duration,
    server: Option<Duration>,
}

impl Start {
    fn now(server: &Server) -> Result<Self> {
        Ok(Self { time: Instant::now(), client: cpu::used_by(process::id())?, server: server.cpu()? })
    }

    /// Ends the window: the seconds that it took, and the processor times divided by the operations, or by these seconds.
    fn end(self, server: &Server, operations: impl FnOnce() -> Option<u64>) -> Result<(Sample, f64)> {
        let seconds = self.time.elapsed().as_secs_f64();
        let part = operations().map_or(seconds, |count| count as f64);
        let client = cpu::used_by(process::id())? - self.client;
        let mut sample = Sample::default().with(Figure::ClientCpu, client.as_secs_f64() / part);
        if let (Some(before), Some(after)) = (self.server, server.cpu()?) {
            sample = sample.with(Figure::ServerCpu, (after - before).as_secs_f64() / part);
        }
        Ok((sample, seconds))
    }
}

/// Measures tasks that go on for ever, after a warm-up.
pub async fn rate(server: &Server, time: Duration, count: Count, mut tasks: JoinSet<Result<()>>) -> Result<Sample> {
    tokio::time::sleep(time / 4).await;
    let (before, start) = (count.get(), Start::now(server)?);
    tokio::time::sleep(time).await;
    let done = count.get() - before;
    let (sample, seconds) = start.end(server, || Some(done))?;
    match tasks.try_join_next() {
        Some(ended) => Err(ended?.err().unwrap_or_else(|| "a task has ended".into())),
        // Without an operation, it has no cost.
        None if done == 0 => Ok(Sample::default().with(Figure::Rate, 0.0)),
        None => Ok(sample.with(Figure::Rate, done as f64 / seconds)),
    }
}

/// Measures an operation that one task repeats. The clock is read once in a thousand times.
pub async fn repeat(server: &Server, time: Duration, mut operation: impl AsyncFnMut()) -> Result<Sample> {
    let mut run = async |time| {
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed() < time {
            for _ in 0..1000 {
                operation().await;
            }
            done += 1000;
        }
        done
    };
    run(time / 4).await;
    let start = Start::now(server)?;
    let done = run(time).await;
    let (sample, seconds) = start.end(server, || Some(done))?;
    Ok(sample.with(Figure::Rate, done as f64 / seconds))
}

/// Measures a time in which nothing is asked for.
pub async fn rest(server: &Server, time: Duration) -> Result<Sample> {
    let (requests, start) = (server.requests()?, Start::now(server)?);
    tokio::time::sleep(time).await;
    let (sample, seconds) = start.end(server, || None)?;
    // One of them asks for their number.
    let requests = (server.requests()? - requests).saturating_sub(1);
    Ok(sample.with(Figure::Requests, requests as f64 / seconds))
}
