//! Markdown tables.

use std::fmt::Write;

use crate::figures::Figure::{ClientCpu, Memory, Rate, Requests, ServerCpu};
use crate::figures::{Figure, Samples};
use crate::rounds::Measured;

/// The rows with a rate.
pub fn rates(rows: &[Measured]) -> String {
    let mut table = String::from(
        "| | operations a second | range | ratio | client's CPU, µs | server's CPU, µs |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for measured in rows.iter().filter(|measured| !measured.row.work.is_at_rest()) {
        heading(&mut table, measured, 5);
        for (contender, samples) in &measured.results {
            let range = samples.range(Rate).map(|(least, most)| format!("{} – {}", number(least), number(most)));
            let cells = [
                cell(samples, Rate, 1.0),
                range.unwrap_or_default(),
                samples.ratio(Rate, measured.baseline()).map(ratio).unwrap_or_default(),
                cell(samples, ClientCpu, 1e6),
                cell(samples, ServerCpu, 1e6),
            ];
            line(&mut table, contender.name(measured.row), contender.is_ours(), &cells);
        }
    }
    table
}

/// The rows at rest.
pub fn rests(rows: &[Measured]) -> String {
    let mut table = String::from(
        "| | client's memory a lock, bytes | requests a second | client's CPU, ms a second | server's CPU, ms a second |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for measured in rows.iter().filter(|measured| measured.row.work.is_at_rest()) {
        heading(&mut table, measured, 4);
        for (contender, samples) in &measured.results {
            let cells = [
                cell(samples, Memory, 1.0),
                cell(samples, Requests, 1.0),
                cell(samples, ClientCpu, 1e3),
                cell(samples, ServerCpu, 1e3),
            ];
            line(&mut table, contender.name(measured.row), contender.is_ours(), &cells);
        }
    }
    table
}

fn heading(table: &mut String, measured: &Measured, columns: usize) {
    let _ = writeln!(table, "| **{}** |{}", measured.row.title, " |".repeat(columns));
}

fn line(table: &mut String, name: &str, is_ours: bool, cells: &[String]) {
    let name = if is_ours { format!("**{name}**") } else { name.to_owned() };
    let _ = writeln!(table, "| {name} | {} |", cells.join(" | "));
}

fn cell(samples: &Samples, figure: Figure, unit: f64) -> String {
    samples.median(figure).map(|value| number(value * unit)).unwrap_or_default()
}

/// Two digits behind the point, or three for what is small.
pub fn ratio(value: f64) -> String {
    match value {
        value if value < 0.001 => "< 0.001".to_owned(),
        value if value < 0.1 => format!("{value:.3}"),
        value if value < 10.0 => format!("{value:.2}"),
        _ => number(value),
    }
}

/// Two digits that count at least, with commas between thousands.
pub fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value < 0.095 => format!("{value:.2}"),
        value if value < 9.95 => format!("{value:.1}"),
        _ => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
    }
}
