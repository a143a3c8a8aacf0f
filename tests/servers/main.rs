//! Tests for etcd and Redis alike: network faults, shared connections, credentials that change, outages in errors and logs, metrics of connections, TLS.

mod credentials;
mod injected;
mod metrics;
mod network;
mod outage_errors;
mod reuse;
mod tls;
