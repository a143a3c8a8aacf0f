//! The signals that the program receives.

use std::io;
use std::thread;

use rustix::process::Signal;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The signals that are passed on to a command.
const FORWARDED: [Signal; 6] = [Signal::INT, Signal::QUIT, Signal::TERM, Signal::HUP, Signal::USR1, Signal::USR2];

/// A received signal, and its source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub(crate) signal: Signal,
    /// Whether it was typed on the terminal, which sends it to the whole foreground process group.
    pub(crate) typed: bool,
}

impl Received {
    /// Whether it asks for an end of the work, and not for something that depends on the command.
    pub(crate) fn asks_to_end(self) -> bool {
        matches!(self.signal, Signal::INT | Signal::QUIT | Signal::TERM | Signal::HUP)
    }
}

/// A queue of the signals received since its creation. Before that, a signal ends the program.
#[derive(Debug)]
pub(crate) struct Signals(UnboundedReceiver<Received>);

impl Signals {
    /// Starts to listen, except for signals that were ignored when the program started, by `nohup` or by a shell without job
    /// control: they stay ignored, here and in the command.
    pub(crate) fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let numbers = FORWARDED.map(Signal::as_raw).into_iter().filter(|number| ignored >> (number - 1) & 1 == 0);
        let mut origins = SignalsInfo::<WithOrigin>::new(numbers)?;
        let (sender, received) = unbounded_channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for origin in origins.forever() {
                let Some(signal) = Signal::from_named_raw(origin.signal) else { continue };
                let typed = origin.process.is_none() && matches!(signal, Signal::INT | Signal::QUIT);
                if sender.send(Received { signal, typed }).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self(received))
    }

    pub(crate) async fn next(&mut self) -> Received {
        match self.0.recv().await {
            Some(received) => received,
            None => std::future::pending().await,
        }
    }

    /// Waits for a signal that asks for an end.
    pub(crate) async fn end(&mut self) {
        while !self.next().await.asks_to_end() {}
    }
}

/// The set of ignored signals, as a bit mask. Only Linux reports it.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The exit status that stands for a signal.
pub(crate) fn status(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
