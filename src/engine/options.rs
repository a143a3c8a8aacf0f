//! [`RequestOptions`]: the options of one request.

use std::task::Context;
use std::time::Duration;

use super::base::Defaults;
use crate::arbiter::Terms;
use crate::backend::Wait;
use crate::info::Mode;
use crate::owner::{Caller, OwnerSource};

/// The options of one request.
#[derive(Clone, Debug)]
pub(crate) struct RequestOptions {
    pub(crate) terms: Terms,
    pub(crate) timeout: Option<Duration>,
    pub(crate) owner: OwnerSource,
    pub(crate) retry_interval: Duration,
    pub(crate) max_retries: u32,
    /// Whether the end of the wait is an error only if the server has not answered.
    pub(super) tries: bool,
}

impl RequestOptions {
    pub(crate) fn new(defaults: &Defaults) -> Self {
        Self {
            terms: Terms {
                mode: Mode::Exclusive,
                limit: None,
                value: None,
                ttl: defaults.ttl,
                isolated: false,
                auto_renew: defaults.auto_renew,
                max_hold: defaults.max_hold,
            },
            timeout: None,
            owner: OwnerSource::Context,
            retry_interval: defaults.retry_interval,
            max_retries: defaults.max_retries,
            tries: false,
        }
    }

    /// The possible owners of a request that is polled in `cx`.
    pub(super) fn caller(&self, defaults: &Defaults, cx: &Context<'_>) -> Caller {
        Caller::new(cx, &self.owner, defaults.reentrant, self.terms.limit.is_some())
    }

    /// The same, to wait for this time only.
    pub(crate) fn trying_for(self, time: Duration) -> Self {
        let limit = self.timeout.map_or(time, |limit| limit.min(time));
        Self { tries: true, ..self.within(Some(limit)) }
    }

    /// The same, with nothing but `limit` to bound the wait.
    pub(super) fn within(mut self, limit: Option<Duration>) -> Self {
        (self.timeout, self.max_retries) = (limit, 0);
        self
    }

    /// The longest wait: for the lock, or for an answer.
    pub(super) fn limit(&self, defaults: &Defaults, wait: Wait) -> Option<Duration> {
        let retries = (self.max_retries > 0).then(|| self.retry_interval.saturating_mul(self.max_retries));
        let answer = (wait == Wait::Never).then_some(defaults.timeout);
        [self.timeout, retries, answer].into_iter().flatten().min()
    }
}
