//! What Redis does, and what is done to it: outages, refusals, others that write there, copies of requests that arrive late.

mod blocked_keeper;
mod fencing;
mod handover;
mod hostile;
mod outages;
mod refusals;
mod releases;
mod renewals;
mod unpolled;
