//! etcd: outages, clusters, users, other clients, limits and sizes.

mod auth;
mod cluster;
mod durations;
mod etcdctl;
mod fencing;
mod ghosts;
mod input;
mod loss;
mod mixed_crowd;
mod monitored;
mod outages;
mod proxied;
mod recovery;
mod unpolled;
mod watches;
