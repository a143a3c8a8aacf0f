//! Detects `etcd grpc-proxy`, which is refused.
//!
//! No lock is safe through it. It renumbers watches, so that an event would be assigned to another key. It answers a keep-alive with
//! the answer to one that it has sent, which may be older: the answer proves no lease. And up to etcd 3.5 a request for progress on a
//! watch stream ends the whole proxy.

use std::time::Duration;

use etcd_client::{WatchClient, WatchOptions};

/// The maximum wait for the answer. Without watches, locks still work.
const PATIENCE: Duration = Duration::from_secs(3);

/// Returns whether a watch gets another number than the requested one, which every etcd since 3.4 uses. `None` without an answer
/// within `limit`.
pub(super) async fn renumbers(mut client: WatchClient, name: Vec<u8>, limit: Duration) -> Option<bool> {
    let number = rand::random_range(1 << 20..1 << 30);
    let ask = async {
        let mut stream = client.watch(name, Some(WatchOptions::new().with_watch_id(number))).await?;
        stream.message().await
    };
    let answer = tokio::time::timeout(limit.min(PATIENCE), ask).await.ok()?.ok()??;
    // A watch that is refused, for missing permissions for example, may have no number.
    Some(answer.created() && !answer.canceled() && answer.watch_id() != number)
}
