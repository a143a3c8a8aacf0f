//! No spans.

use std::sync::Arc;

use crate::info::{Loss, Mode};
use crate::token::FencingToken;

#[derive(Debug)]
pub(crate) struct WaitSpan;

#[derive(Debug)]
pub(crate) struct HoldSpan;

impl WaitSpan {
    pub(crate) const NONE: Self = Self;

    pub(crate) fn begin(_name: &Arc<str>, _key: &Arc<str>, _mode: Mode) -> Self {
        Self
    }

    pub(crate) fn acquired(&mut self, _hold: &HoldSpan, _mode: Mode, _token: FencingToken) {}

    pub(crate) fn ended(&mut self, _outcome: &'static str) {}

    pub(crate) fn forget(&mut self) {}
}

impl HoldSpan {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn ended(&self, _lost: Option<Loss>) {}
}
