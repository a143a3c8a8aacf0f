//! Processes: their ends while they hold locks, crowds of them, the command line, and the tests' tools for processes and histories.

mod cli;
mod cli_pty;
mod cli_run;
mod doctor;
mod harness;
mod history;
mod leaders;
mod life;
mod slots;
