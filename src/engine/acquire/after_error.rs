//! The next step after a failed attempt.

use crate::backend::Wait;
use crate::error::ErrorKind;

/// Where the attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailedAt {
    /// While its lease was being opened: it has no claim in the queue.
    Lease,
    /// While it claimed: its claim may be in the queue.
    Claim,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterError {
    /// The failure may be temporary: pause, then try again from the same place.
    Retry,
    /// The claim or its lease was lost: find out which, then try again with a lease that lives.
    RetryLease,
    /// The caller does not wait for the server: return the error.
    Fail,
    /// A final refusal. The clean-up may be refused as well, so the next attempt does not wait for it.
    Refuse,
}

/// Decides the next step. `wait`: whether the caller waits for the lock.
pub(super) fn after_error(kind: ErrorKind, stage: FailedAt, wait: Wait) -> AfterError {
    match (kind, stage) {
        (ErrorKind::LeaseLost, FailedAt::Claim) => AfterError::RetryLease,
        (ErrorKind::LeaseLost | ErrorKind::Unreachable, _) if wait == Wait::UntilGranted => AfterError::Retry,
        (ErrorKind::Unreachable, FailedAt::Claim) | (_, FailedAt::Lease) => AfterError::Fail,
        (_, FailedAt::Claim) => AfterError::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_an_error() {
        use AfterError::{Fail, Refuse, Retry, RetryLease};
        use ErrorKind::{Closed, Denied, Incompatible, LeaseLost, Misconfigured, Refused, Unreachable, Unsupported};
        // Opening with wait, opening without, claiming with wait, claiming without.
        let table = [
            (Unreachable, [Retry, Fail, Retry, Fail]),
            (LeaseLost, [Retry, Fail, RetryLease, RetryLease]),
            (Denied, [Fail, Fail, Refuse, Refuse]),
            (Misconfigured, [Fail, Fail, Refuse, Refuse]),
            (Incompatible, [Fail, Fail, Refuse, Refuse]),
            (Refused, [Fail, Fail, Refuse, Refuse]),
            (Unsupported, [Fail, Fail, Refuse, Refuse]),
            (Closed, [Fail, Fail, Refuse, Refuse]),
        ];
        let cases = [FailedAt::Lease, FailedAt::Claim].map(|stage| [(stage, Wait::UntilGranted), (stage, Wait::Never)]);
        for (kind, expected) in table {
            let decided =
                cases.as_flattened().iter().map(|&(stage, wait)| after_error(kind, stage, wait)).collect::<Vec<_>>();
            assert_eq!(decided, expected, "{kind:?}");
        }
    }
}
