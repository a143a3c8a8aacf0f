//! Tests for etcd and Redis alike: network faults, shared connections, credentials that change, outages in errors and logs, TLS.

mod credentials;
mod injected;
mod network;
mod outage_errors;
mod reuse;
mod tls;
