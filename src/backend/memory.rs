//! Locks within one process.
