//! `etcd grpc-proxy`, which is refused.
//!
//! No lock is safe by way of it. It gives watches numbers of its own, so that an event would be taken for one of another key. It
//! answers a keep-alive with what it has heard for one of its own, which may be older: the answer proves no lease. And up to etcd 3.5
//! a request for progress on a watch stream ends the whole proxy.

use etcd_client::{Error, WatchClient, WatchOptions};

/// Returns whether a watch gets another number than the one that it was asked for with. Each etcd from 3.4 on takes that.
pub(super) async fn renumbers(mut client: WatchClient, name: Vec<u8>) -> Result<bool, Error> {
    let number = rand::random_range(1 << 20..1 << 30);
    let mut stream = client.watch(name, Some(WatchOptions::new().with_watch_id(number))).await?;
    let answer = stream.message().await?;
    // One that is refused, for its permissions for example, may have none.
    Ok(answer.is_some_and(|answer| answer.created() && !answer.canceled() && answer.watch_id() != number))
}
