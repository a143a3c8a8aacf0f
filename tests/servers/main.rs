//! What is the same on etcd and on Redis: a network that fails, connections that are shared, credentials that change, outages in errors
//! and logs, TLS.

mod credentials;
mod injected;
mod network;
mod outage_errors;
mod reuse;
mod tls;
