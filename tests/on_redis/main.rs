//! Redis: outages, refusals, foreign writes, copies of requests that arrive late.

mod blocked_keeper;
mod fencing;
mod handover;
mod hostile;
mod outages;
mod refusals;
mod releases;
mod renewals;
mod unpolled;
