//! What happens to the processes of the crowd, and to their connections.

use std::fmt;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::TTL;
use super::member::Members;

/// How many processes may suffer at a time: the others contend.
const MOST: usize = 2;

/// The faults that last, and counts of all.
#[derive(Default)]
pub(super) struct Faults {
    lasting: Vec<(usize, Instant)>,
    killed: usize,
    stopped: usize,
    cut: usize,
    reset: usize,
}

impl Faults {
    /// Begins another fault after a while, and ends those whose time is over.
    pub(super) fn play(&mut self, members: &mut Members, rng: &mut StdRng) {
        std::thread::sleep(Duration::from_millis(rng.random_range(10..200)));
        self.lasting.retain(|(number, end)| {
            let lasts = Instant::now() < *end;
            if !lasts {
                heal(members, *number);
            }
            lasts
        });
        let number = rng.random_range(0..members.all.len());
        if self.lasting.len() == MOST || self.lasting.iter().any(|(other, _)| *other == number) {
            return;
        }
        let member = &members.all[number];
        match rng.random_range(0..8) {
            0 => {
                members.replace(number);
                self.killed += 1;
                return;
            }
            1 => {
                member.proxy.reset_all();
                self.reset += 1;
                return;
            }
            2..5 => {
                member.child.process.stop();
                self.stopped += 1;
            }
            kind => {
                match kind {
                    5 => member.proxy.cut(),
                    6 => member.proxy.drop_answers(true),
                    _ => member.proxy.hold_requests(),
                }
                self.cut += 1;
            }
        }
        self.lasting.push((number, Instant::now() + TTL.mul_f64(rng.random_range(0.1..1.6))));
    }

    /// Ends all faults.
    pub(super) fn end(&mut self, members: &Members) {
        self.lasting.drain(..).for_each(|(number, _)| heal(members, number));
    }
}

fn heal(members: &Members, number: usize) {
    members.all[number].child.process.resume();
    members.all[number].proxy.heal();
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { killed, stopped, cut, reset, .. } = self;
        write!(f, "{killed} killed, {stopped} stopped, {cut} cut off, {reset} reset")
    }
}
