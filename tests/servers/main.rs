//! What is the same on etcd and on Redis: a network that fails, connections that are shared, outages in errors and logs, TLS.

mod injected;
mod network;
mod outage_errors;
mod reuse;
mod tls;
