//! Processes that contend for one key.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, stdin};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

use crate::clients::{Client, Lock};
use crate::figures::{Figure, Sample};
use crate::servers::Server;
use crate::{Result, cpu};

/// Starts processes that take turns, and adds up what they have measured.
pub fn measure(processes: usize, command: impl Fn() -> Result<Command>) -> Result<Sample> {
    let mut started = Vec::new();
    for _ in 0..processes {
        let mut child = command()?.arg("--turns").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        started.push((child, BufReader::new(output)));
    }
    for (_, output) in &mut started {
        output.read_line(&mut String::new())?;
    }
    for (child, _) in &mut started {
        child.stdin.take().ok_or("no input")?.write_all(b"go\n")?;
    }
    let (mut rate, mut used) = (0.0, 0.0);
    for (child, output) in &mut started {
        let mut text = String::new();
        output.read_to_string(&mut text)?;
        if !child.wait()?.success() {
            return Err("a process has failed".into());
        }
        let sample: Sample = text.parse()?;
        let figure = |figure| sample.get(figure).ok_or("a process has measured nothing");
        rate += figure(Figure::Rate)?;
        used += figure(Figure::Rate)? * figure(Figure::ClientCpu)?;
    }
    Ok(Sample::default().with(Figure::Rate, rate).with(Figure::ClientCpu, if rate > 0.0 { used / rate } else { 0.0 }))
}

/// Locks and unlocks one key when told to, as one of several processes. An operation is a change of the lock to this process.
pub async fn take_turns<C: Client>(server: &Server, time: Duration) -> Result<Sample> {
    let mut lock = C::connect(server).await?.lock("one").await?;
    let path = Path::new(&server.address).join("last");
    let last = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    println!("ready");
    stdin().read_line(&mut String::new())?;
    let mut turns = async |time: Duration| {
        let (start, mut turns) = (Instant::now(), 0_u64);
        while start.elapsed() < time {
            let held = lock.acquire().await?;
            // The process that had it before.
            let mut other = [0; 4];
            let length = last.read_at(&mut other, 0)?;
            if length < other.len() || u32::from_ne_bytes(other) != process::id() {
                turns += 1;
                last.write_all_at(&process::id().to_ne_bytes(), 0)?;
            }
            lock.release(held).await?;
        }
        Result::Ok(turns)
    };
    turns(time / 4).await?;
    let (start, used) = (Instant::now(), cpu::used_by(process::id())?);
    let turns = turns(time).await?;
    let (seconds, used) = (start.elapsed().as_secs_f64(), cpu::used_by(process::id())? - used);
    let each = used.as_secs_f64() / turns.max(1) as f64;
    Ok(Sample::default().with(Figure::Rate, turns as f64 / seconds).with(Figure::ClientCpu, each))
}
