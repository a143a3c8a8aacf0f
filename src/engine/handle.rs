//! [`EngineHandle`]: keeps a manager running; the drop of the last one ends its sessions.

use std::sync::Arc;

use super::base::{Base, Defaults};
use super::close::close;
use super::drop_wait::DropWait;
use super::{Engine, background};
use crate::backend::Backend;
use crate::clock::Clock;
use crate::keeper::Keeper;

/// Keeps a manager running: managers, handles, requests and guards have one. Its sessions end with the last one.
#[derive(Debug)]
pub(crate) struct EngineHandle(Arc<Engine>);

impl EngineHandle {
    /// Starts a manager.
    pub(crate) fn start(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        keeper: Arc<Keeper>,
        defaults: Defaults,
    ) -> Arc<Self> {
        let engine = Engine::new(Base::new(backend, clock, keeper, defaults));
        background::start(&engine);
        Arc::new(Self(engine))
    }

    /// The engine alone, for work that does not keep the manager running.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.0
    }
}

impl std::ops::Deref for EngineHandle {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.0
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        let base = &self.0.base;
        if base.is_forked() {
            // Leaked: a mutex of the backend may stay locked for ever, by a thread that only the parent has.
            std::mem::forget(self.0.clone());
        } else if !base.lifecycle.is_closed() {
            let (engine, bound) = (self.0.clone(), base.defaults.timeout);
            base.lifecycle.close();
            let (awaited, now) = DropWait::new(base).split();
            base.keeper.spawn(async move {
                close(engine, bound).await;
                drop(awaited);
            });
            if let Some(now) = now {
                now.wait();
            }
        }
    }
}
