//! Redis: outages, refusals, foreign writes, copies of requests that arrive late.

mod accounts;
mod blocked_keeper;
mod chaos;
mod clusters;
mod coordination;
mod cut_off;
mod doctor;
mod failovers;
mod fencing;
mod forged;
mod handover;
mod hostile;
mod hostile_nodes;
mod outages;
mod queues;
mod refusals;
mod releases;
mod renewals;
mod sentinels;
mod shards;
mod tracking;
mod unpolled;
mod waiters;
mod watched_failovers;
