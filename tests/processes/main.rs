//! Processes: those that hold locks and end, the command line, and the parts of the tests themselves that start and judge processes.

mod cli;
mod cli_pty;
mod harness;
mod history;
mod life;
