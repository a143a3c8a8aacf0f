//! `leasehold man`: the man pages, from the help.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args::Args;
use super::exit::Ended;

/// Writes `leasehold.1` and a page for each command into a directory, which is made if there is none.
pub(crate) fn write(directory: &Path) -> Ended {
    fs::create_dir_all(directory)?;
    let mut program = Args::command().disable_help_subcommand(true);
    // Gives the commands the names of their pages and the options that all have.
    program.build();
    for command in std::iter::once(&program).chain(program.get_subcommands()) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        fs::write(directory.join(format!("{name}.1")), page(command)?)?;
    }
    Ok(0)
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).manual("leasehold").source(concat!("leasehold ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    // What follows the help are lists with headings, whose lines are kept.
    let more = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for section in more.split("\n\n") {
        if let Some((heading, list)) = section.split_once(":\n") {
            let mut roff = Roff::new();
            roff.control("SH", [heading.to_uppercase().as_str()]).control("nf", []);
            for line in list.lines() {
                roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
            }
            roff.control("fi", []);
            roff.to_writer(&mut page)?;
        }
    }
    Ok(page)
}
