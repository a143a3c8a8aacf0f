//! Clients of the program that are passed to the builder.

use std::time::Duration;

use leasehold::LockManager;

const TTL: Duration = Duration::from_secs(7);

#[tokio::test]
async fn a_given_etcd_client_is_used_and_never_closed() {
    let etcd = support::etcd::Etcd::shared();
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let builder = |client: &etcd_client::Client| LockManager::builder().etcd_client(client.clone()).prefix("injected/");
    let manager = builder(&client).ttl(TTL).build().await.unwrap();
    let guard = manager.lock("k").await.unwrap();
    assert!(guard.remaining() <= TTL);
    let prefix = etcd_client::GetOptions::new().with_prefix();
    assert_eq!(client.get("injected/k/", Some(prefix)).await.unwrap().count(), 1);
    guard.unlock().await.unwrap();
    manager.close().await.unwrap();
    drop(manager);
    // The program's calls, and those of another manager.
    client.put("injected-after", "", None).await.unwrap();
    drop(builder(&client).build().await.unwrap().lock("k").await.unwrap());
}

#[tokio::test]
async fn a_given_redis_client_says_where_to_connect() {
    let server = support::redis::Redis::shared();
    let client = redis::Client::open(server.url()).unwrap();
    let manager =
        LockManager::builder().redis_client(client.clone()).prefix("injected:").ttl(TTL).build().await.unwrap();
    let guard = manager.lock("k").await.unwrap();
    assert!(guard.remaining() <= TTL);
    assert_eq!(server.cli(&["EXISTS", "injected:k"]), "1");
    guard.unlock().await.unwrap();
    manager.close().await.unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("PING").exec_async(&mut connection).await.unwrap();
}

/// An unreachable server is an error at the start, also with a given client.
#[tokio::test]
async fn a_redis_client_without_a_server_is_an_error_at_the_start() {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", support::ports::free_port())).unwrap();
    let error = LockManager::builder().redis_client(client).timeout(Duration::from_secs(1)).build().await.unwrap_err();
    assert_eq!(error.code(), "BACKEND");
}
