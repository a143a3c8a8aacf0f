//! Tests for etcd and Redis alike: network faults, shared connections, outages in errors and logs, TLS.

mod injected;
mod network;
mod outage_errors;
mod reuse;
mod tls;
