//! What a manager has at one server: its requests, its channel, and the tasks that serve them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};

use super::batch::Batch;
use super::claims::Claims;
use super::connection::{Connector, SharedConnection};
use super::locator::Locator;
use super::looks;
use super::losses::Losses;
use super::names::Names;
use super::options::Target;
use super::pubsub::{Receiver, Subscription};
use super::replicas::Replicas;
use super::reports::Membership;
use super::router::Router;
use super::scripts::Scripts;
use super::serving::Serving;
use super::tracking::Tracker;
use crate::backend::{Clock, Result};

/// What the servers of one manager have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) names: Names,
    /// The id of the manager.
    pub(super) manager: u64,
    pub(super) signals: bool,
    pub(super) timeout: Duration,
    pub(super) min_replicas: u32,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) handle: Handle,
    pub(super) claims: Arc<Claims>,
}

/// A server, connected or not.
#[derive(Debug)]
pub(super) struct Opening {
    common: Common,
    target: Target,
    scripts: Scripts,
    /// The id of the node, in a cluster.
    node: Option<String>,
    pub(super) serving: Arc<Serving>,
    /// The requests that replicas have to confirm.
    confirmed: Option<Arc<Batch>>,
    pub(super) subscribed: Mutex<Option<(Arc<Subscription>, Arc<Receiver>)>>,
    tasks: Tasks,
}

/// Background tasks, which end with this.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<Vec<AbortHandle>>);

impl Tasks {
    pub(super) fn add(&self, task: JoinHandle<()>) {
        self.0.lock().push(task.abort_handle());
    }

    pub(super) fn end(&self) {
        self.0.lock().iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.end();
    }
}

impl Opening {
    /// Nothing is sent before it is [connected](Self::connect).
    pub(super) fn new(common: &Common, target: Target, scripts: Scripts, membership: Option<Membership>) -> Self {
        let batch = |claims, membership| {
            Batch::new(target.to_string(), scripts.clone(), common.clock.clone(), claims, membership)
        };
        let node = membership.as_ref().map(|membership| membership.id.clone());
        let (tasks, mut confirmed, mut replicas) = (Tasks::default(), None, None);
        if common.min_replicas > 0 {
            let batch = batch(Arc::default(), membership.clone());
            let (confirming, serving) =
                Replicas::new(batch.clone(), common.min_replicas, common.timeout, common.clock.clone());
            tasks.add(common.handle.spawn(serving));
            (confirmed, replicas) = (Some(batch), Some(confirming));
        }
        let serving = Arc::new(Serving { batch: batch(common.claims.clone(), membership), replicas });
        let subscribed = Mutex::new(None);
        Self { common: common.clone(), target, scripts, node, serving, confirmed, subscribed, tasks }
    }

    /// Connects, and serves the requests from then on.
    pub(super) async fn connect(&self, router: &Arc<Router>, losses: &Arc<Losses>) -> Result<()> {
        let Common { timeout, handle, claims, .. } = &self.common;
        let locator = Locator::of(&self.target, *timeout, handle).await?;
        let connector =
            |shared| Connector::new(locator.clone(), shared, self.scripts.clone(), self.node.clone(), *timeout);
        let shared = connector(SharedConnection::of(&self.target, handle).await?);
        let connection = shared.open().await?;
        let mut separate = None;
        if let Some(confirmed) = &self.confirmed {
            let connector = connector(Arc::default());
            let connection = connector.open().await?;
            separate = Some((confirmed.clone(), connector, connection));
        }
        let subscription = Subscription::of(&self.target, &locator, *timeout, handle).await?;
        let batch = &self.serving.batch;
        let receiver = Arc::new(Receiver {
            channel: self.scripts.channel(),
            claims: claims.clone(),
            router: router.clone(),
            batch: batch.clone(),
            losses: losses.clone(),
        });
        *self.subscribed.lock() = Some((subscription.clone(), receiver.clone()));
        subscription.add(&receiver).await?;
        let tracker =
            Tracker { claims: claims.clone(), router: router.clone(), batch: batch.clone(), losses: losses.clone() };
        if let Some((batch, connector, connection)) = separate {
            self.tasks.add(handle.spawn(batch.run(connector, connection)));
        }
        self.tasks.add(handle.spawn(batch.clone().run(shared, connection)));
        self.tasks.add(handle.spawn(looks::poll_waiters(router.clone(), batch.clone(), claims.clone())));
        self.tasks.add(handle.spawn(subscription.tracking.clone().run(Arc::new(tracker))));
        Ok(())
    }

    /// Ends the tasks and the subscription.
    pub(super) fn stop(&self) {
        self.tasks.end();
        if let Some((subscription, receiver)) = self.subscribed.lock().take() {
            subscription.remove(&receiver);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.stop();
    }
}
