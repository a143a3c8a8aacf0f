//! The library without a server: the public API, owners, logs, configuration, faults in memory.

mod blocked_keeper;
mod broken_backends;
mod completions;
mod config;
mod dependencies;
mod drivers;
mod faults;
mod fixture;
mod foreign_code;
mod interleavings;
mod keeper;
mod keeper_thread;
mod layers;
mod loggers;
mod logs;
mod metrics;
mod owners;
mod parity;
mod quickstart;
mod registry;
mod slow_log;
mod smoke;
mod surface;
mod traces;
