//! `etcd grpc-proxy`, which is refused.
//!
//! No lock is safe by way of it. It gives watches numbers of its own, so that an event would be taken for one of another key. It
//! answers a keep-alive with what it has heard for one of its own, which may be older: the answer proves no lease. And up to etcd 3.5
//! a request for progress on a watch stream ends the whole proxy.

use std::time::Duration;

use etcd_client::{WatchClient, WatchOptions};

/// How long to wait for the answer. Where watches are silent, locks go on without them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns whether a watch gets another number than the one that it was asked for with. Each etcd from 3.4 on takes that. `None`
/// without an answer within `limit`.
pub(super) async fn renumbers(mut client: WatchClient, name: Vec<u8>, limit: Duration) -> Option<bool> {
    let number = rand::random_range(1 << 20..1 << 30);
    let ask = async {
        let mut stream = client.watch(name, Some(WatchOptions::new().with_watch_id(number))).await?;
        stream.message().await
    };
    let answer = tokio::time::timeout(limit.min(PATIENCE), ask).await.ok()?.ok()??;
    // One that is refused, for its permissions for example, may have none.
    Some(answer.created() && !answer.canceled() && answer.watch_id() != number)
}
