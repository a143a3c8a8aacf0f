//! Behind `etcd grpc-proxy`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use leasehold::LockManager;
use support::etcd::{Etcd, is_healthy};
use support::eventually;
use support::folder::Folder;
use support::ports::free_port;
use support::process::Process;

/// A gRPC proxy in front of a server.
struct GrpcProxy {
    address: SocketAddr,
    _process: Process,
    _folder: Folder,
}

impl GrpcProxy {
    fn start(etcd: &Etcd, advertised: &str) -> Self {
        let (address, folder) = (SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), Folder::in_memory());
        let process = Process::spawn("etcd", |command| {
            command.args(["grpc-proxy", "start", "--endpoints", &etcd.endpoint()]);
            command.args(["--listen-addr", &address.to_string(), "--advertise-client-url", advertised]);
            command.arg("--data-dir").arg(folder.path());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        });
        eventually("the proxy answers", || is_healthy(address).then_some(()));
        Self { address, _process: process, _folder: folder }
    }
}

#[test]
fn a_grpc_proxy_is_refused_with_a_reason() {
    let etcd = Etcd::start();
    for advertised in ["127.0.0.1:23790", ""] {
        let proxy = GrpcProxy::start(&etcd, advertised);
        let url = format!("etcd://{}", proxy.address);
        let refused = LockManager::connect(&url).wait().unwrap_err();
        assert_eq!(refused.code(), "UNSUPPORTED", "{refused}");
        let text = refused.to_string();
        assert!(text.contains("gRPC proxy") && text.contains(&proxy.address.to_string()), "{text}");
        // Where one of several endpoints is a proxy, another one is used.
        let both = format!("etcd://{},{}", proxy.address, etcd.endpoint());
        let manager = LockManager::builder().url(both).ttl(Duration::from_secs(2)).build().wait().unwrap();
        manager.lock("k").wait().unwrap().unlock().wait().unwrap();
    }
}

#[tokio::test]
async fn a_client_behind_a_proxy_gets_no_lock() {
    let etcd = Etcd::start();
    let proxy = GrpcProxy::start(&etcd, "");
    let client = etcd_client::Client::connect([proxy.address.to_string()], None).await.unwrap();
    let manager = LockManager::builder().etcd_client(client).build().await.unwrap();
    let refused = manager.lock("k").await.unwrap_err();
    assert_eq!(refused.code(), "UNSUPPORTED", "{refused}");
}
