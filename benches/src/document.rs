//! The part of docs/performance.md that is measured.

use std::fs;
use std::path::Path;

use crate::options::Options;
use crate::rounds::Measured;
use crate::{Result, machine, table};

const BEGIN: &str = "<!-- measured: begin -->\n";
const END: &str = "<!-- measured: end -->\n";

/// The description of the run, and its tables.
pub fn section(rows: &[Measured], options: &Options) -> String {
    let (rates, rests) = (table::rates(rows), table::rests(rows));
    format!("{}\n## Rates\n\n{rates}\n## At rest\n\n{rests}", machine::description(options))
}

/// Replaces what is between the two comments.
pub fn rewrite(file: &Path, section: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let (before, rest) = text.split_once(BEGIN).ok_or_else(|| format!("{}: no {BEGIN}", file.display()))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("{}: no {END}", file.display()))?;
    fs::write(file, format!("{before}{BEGIN}\n{section}\n{END}{after}"))?;
    Ok(())
}
