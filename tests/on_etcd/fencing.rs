//! Transactions of a program on etcd that succeed only while the lock is held.

use etcd_client::{Client, Compare, Txn, TxnOp};
use leasehold::LockManager;
use support::broken::{Broken, Defect};
use support::etcd::Etcd;

async fn write(client: &mut Client, held: Compare, value: &str) -> bool {
    let write = Txn::new().when([held]).and_then([TxnOp::put("fenced", value, None)]);
    client.txn(write).await.unwrap().succeeded()
}

#[tokio::test]
async fn the_late_write_of_a_paused_holder_is_refused() {
    let etcd = Etcd::start();
    let mut client = Client::connect([etcd.endpoint()], None).await.unwrap();
    let (a, b) = (LockManager::connect(etcd.url()).await.unwrap(), LockManager::connect(etcd.url()).await.unwrap());
    let paused = a.lock("k/with a part").await.unwrap();
    let late = paused.etcd_compare().unwrap();
    assert!(write(&mut client, late.clone(), "first").await);
    // The paused holder does not know of its loss: its lease has ended, and another one has the lock.
    b.force_unlock("k/with a part").await.unwrap();
    let guard = b.lock("k/with a part").await.unwrap();
    assert!(write(&mut client, guard.etcd_compare().unwrap(), "second").await);
    assert!(!write(&mut client, late, "first, too late").await);
    let written = client.get("fenced", None).await.unwrap();
    assert_eq!(written.kvs()[0].value_str().unwrap(), "second");
    paused.lost().await;
    assert_eq!(paused.etcd_compare().unwrap_err().code(), "LOCK_EXPIRED");
    // Readers have claims as well.
    let readers = [a.lock("r").shared().await.unwrap(), b.lock("r").shared().await.unwrap()];
    for reader in &readers {
        assert!(write(&mut client, reader.etcd_compare().unwrap(), "third").await);
    }
    let held = readers[0].etcd_compare().unwrap();
    for reader in readers {
        reader.unlock().await.unwrap();
    }
    assert!(!write(&mut client, held, "fourth").await, "released");
}

#[tokio::test]
async fn other_backends_have_no_such_condition() {
    let guard = LockManager::memory().lock("k").await.unwrap();
    assert_eq!(guard.etcd_compare().unwrap_err().code(), "UNSUPPORTED");
    // Nor has one that calls itself etcd.
    let mut pretender = Broken::new(Defect::None);
    pretender.kind = "etcd";
    let guard = LockManager::builder().backend(pretender).build().await.unwrap().lock("k").await.unwrap();
    assert_eq!(guard.etcd_compare().unwrap_err().code(), "UNSUPPORTED");
}
