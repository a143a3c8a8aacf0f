//! Locks in a directory, among processes that are killed and stopped.

mod crowd;
mod deaths;
mod doctor;
mod forks;
mod limits;
mod namespaces;
mod removals;
