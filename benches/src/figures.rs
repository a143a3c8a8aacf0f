//! What a measurement yields.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::Result;

/// One of the numbers of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Operations a second.
    Rate,
    /// Seconds of processor time of the client: for each operation, or at rest for each second.
    ClientCpu,
    /// The same of the server.
    ServerCpu,
    /// At rest: bytes of the client for each lock.
    Memory,
    /// At rest: requests that the server receives a second.
    Requests,
}

const NAMES: [(Figure, &str); 5] = [
    (Figure::Rate, "rate"),
    (Figure::ClientCpu, "client-cpu"),
    (Figure::ServerCpu, "server-cpu"),
    (Figure::Memory, "memory"),
    (Figure::Requests, "requests"),
];

/// The numbers of one measurement. As text, by which a process passes them to another, a line for each.
#[derive(Clone, Debug, Default)]
pub struct Sample(BTreeMap<Figure, f64>);

impl Sample {
    pub fn with(mut self, figure: Figure, value: f64) -> Self {
        self.0.insert(figure, value);
        self
    }

    pub fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(&figure).copied()
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NAMES.iter().try_for_each(|(figure, name)| match self.get(*figure) {
            Some(value) => writeln!(f, "{name} {value}"),
            None => Ok(()),
        })
    }
}

impl FromStr for Sample {
    type Err = Box<dyn std::error::Error + Send + Sync>;

    fn from_str(text: &str) -> Result<Self> {
        text.lines().try_fold(Self::default(), |sample, line| {
            let (name, value) = line.split_once(' ').ok_or_else(|| format!("no number: {line}"))?;
            let (figure, _) =
                NAMES.iter().find(|(_, known)| *known == name).ok_or_else(|| format!("unknown: {name}"))?;
            Ok(sample.with(*figure, value.parse()?))
        })
    }
}

/// A contender's measurements, one a round.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// The median over the rounds.
    pub fn median(&self, figure: Figure) -> Option<f64> {
        median(self.0.iter().filter_map(|sample| sample.get(figure)).collect())
    }

    /// The median of the ratios to the other contender's figure of the same round.
    pub fn ratio(&self, figure: Figure, other: &Self) -> Option<f64> {
        let pairs = self.0.iter().zip(&other.0);
        median(pairs.filter_map(|(own, other)| Some(own.get(figure)? / other.get(figure)?)).collect())
    }

    /// The least and the greatest.
    pub fn range(&self, figure: Figure) -> Option<(f64, f64)> {
        let values = || self.0.iter().filter_map(|sample| sample.get(figure));
        Some((values().reduce(f64::min)?, values().reduce(f64::max)?))
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (half, odd) = (values.len() / 2, values.len() % 2 == 1);
    match values.len() {
        0 => None,
        _ if odd => Some(values[half]),
        _ => Some(values[half - 1].midpoint(values[half])),
    }
}
