//! [`Attempt`]: a claim at the backend, until it is answered or its lease is lost.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use crate::backend::{self, Backend, Claim, Grant, Wait};
use crate::engine::Base;
use crate::error::{BackendError, ErrorKind, Result};
use crate::info::Loss;
use crate::lease::{LeaseCell, Listener};
use crate::process::foreign::Catching;
use crate::process::report::Foreign;

pub(super) type Answer = Result<Option<Grant>, BackendError>;

/// A claim in flight.
pub(super) struct Attempt {
    answer: Catching<BoxFuture<'static, Answer>>,
    loss: LossListener,
}

impl Attempt {
    /// Claims at the backend.
    pub(super) fn new(claim: Arc<Claim>, cell: Arc<LeaseCell>, backend: Arc<dyn Backend>, wait: Wait) -> Self {
        let answer: BoxFuture<'_, _> = Box::pin(async move { backend.acquire(&claim, wait).await });
        let loss = LossListener { cell, listener: Listener::default() };
        Self { answer: Catching::new(Foreign::Backend, answer), loss }
    }

    pub(super) fn cell(&self) -> &Arc<LeaseCell> {
        &self.loss.cell
    }

    /// Polls for the answer, or the loss of the lease.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, base: &Base) -> Poll<Answer> {
        if let Poll::Ready(caught) = Pin::new(&mut self.answer).poll(cx) {
            return Poll::Ready(backend::acquired(caught));
        }
        self.loss.poll(cx, base).map(|cause| Err(BackendError::new(ErrorKind::LeaseLost, cause.to_string())))
    }
}

/// Waits for the loss of a lease.
struct LossListener {
    cell: Arc<LeaseCell>,
    listener: Listener,
}

impl LossListener {
    fn poll(&mut self, cx: &mut Context<'_>, base: &Base) -> Poll<Loss> {
        self.cell.signal.listen(&mut self.listener, cx.waker());
        self.cell.loss(base.now()).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for LossListener {
    fn drop(&mut self) {
        self.cell.signal.forget(&mut self.listener);
    }
}
