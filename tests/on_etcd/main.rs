//! etcd: outages, clusters, users, other clients, limits and sizes.

mod auth;
mod cluster;
mod coordination;
mod doctor;
mod durations;
mod etcdctl;
mod fencing;
mod input;
mod late_requests;
mod loss;
mod mixed_crowd;
mod monitored;
mod outages;
mod proxied;
mod recovery;
mod releases;
mod unpolled;
mod watches;
