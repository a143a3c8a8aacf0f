//! From etcd's errors to [`BackendError`]: the only place where they are mapped.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use etcd_client::Error;

use crate::backend::{BackendError, ErrorKind};

// gRPC's status codes, https://grpc.github.io/grpc/core/md_doc_statuscodes.html
const CANCELLED: i32 = 1;
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

const WRONG_PASSWORD: &str = "authentication failed";
const COMPACTED: &str = "required revision has been compacted";
const NO_SPACE: &str = "space exceeded";
const TOO_MANY: &str = "too many operations";

/// The messages for a request with more bytes than the server, or a proxy before it, accepts.
const TOO_LARGE: [&str; 4] = [
    "request is too large",
    "received message larger than max",
    "trying to send message larger than max",
    "encoded message length too large",
];

/// The messages for an answer that was not delivered for its size. The first one is ambiguous: request or answer.
const UNREAD: [&str; 2] = ["trying to send message larger than max", "decoded message length too large"];

/// Maps an error of the client.
pub(super) fn of(endpoints: &str, error: Error) -> BackendError {
    let kind = kind(&error);
    let reason = match (&error, kind) {
        (_, ErrorKind::LeaseLost) => format!("the lease no longer exists in etcd at {endpoints}"),
        // The text comes from the server, and does not contain the password.
        (Error::GRpcStatus(status), ErrorKind::Denied) => {
            format!("etcd at {endpoints} denied access: {}", plain(status.message()))
        }
        (Error::GRpcStatus(status), ErrorKind::Refused) => {
            let hint = if says(&error, TOO_MANY) { "; leasehold needs --max-txn-ops of at least 4" } else { "" };
            format!("etcd at {endpoints} refused: {}{hint}", plain(status.message()))
        }
        (_, ErrorKind::Denied | ErrorKind::Refused) => format!("etcd at {endpoints} cannot be used: {error}"),
        (Error::GRpcStatus(status), _) => match sources(status).last() {
            // The client's own text is "transport error".
            Some(cause) => format!("etcd at {endpoints} is unreachable: {cause}"),
            None => format!("etcd at {endpoints} is unreachable: {}", plain(status.message())),
        },
        _ => format!("etcd at {endpoints} is unreachable"),
    };
    BackendError::new(kind, reason).because(error)
}

/// Maps the error of the first request on a connection.
pub(super) fn at_first(endpoints: &str, tls: bool, error: Error) -> BackendError {
    if !is_closed(&error) {
        return of(endpoints, error);
    }
    let hint = if tls { "it may speak no TLS (etcd://)" } else { "it may speak nothing but TLS (etcds://)" };
    let reason = format!("etcd at {endpoints} has closed the connection without an answer: {hint}");
    BackendError::new(ErrorKind::Unreachable, reason).because(error)
}

/// Returns whether the server has closed the connection.
fn is_closed(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let io = sources(status).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match io {
        Some(kind) => {
            matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
        }
        // hyper's error for a connection that ended before the request was sent.
        None => status.code() as i32 == CANCELLED && sources(status).next().is_some(),
    }
}

fn sources<'a>(status: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

/// Returns the error of a request that was not answered in time.
pub(super) fn no_answer(endpoints: &str, limit: Duration) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("etcd at {endpoints} did not answer within {limit:?}"))
}

/// Returns the error of a lease that has ended.
pub(super) fn lease_lost(endpoints: &str) -> BackendError {
    BackendError::new(ErrorKind::LeaseLost, format!("the lease no longer exists in etcd at {endpoints}"))
}

/// Returns the error of a claim that was removed while its lease is alive.
pub(super) fn claim_lost(endpoints: &str) -> BackendError {
    BackendError::new(ErrorKind::LeaseLost, format!("the claim was removed from its queue in etcd at {endpoints}"))
}

/// Returns the error of a release of which an earlier request is still in flight.
pub(super) fn unanswered(endpoints: &str) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("etcd at {endpoints} has not answered all requests of a release"))
}

/// Returns whether a request that has failed with this error may have taken effect.
pub(super) fn may_have_run(error: &BackendError) -> bool {
    error.kind() == ErrorKind::Unreachable || is_unread(error)
}

/// Returns the error of an answer that no etcd gives.
pub(super) fn nonsense(endpoints: &str) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("etcd at {endpoints} gave an answer that makes no sense"))
}

/// Returns the error of an answer from a store that was restored since the request before.
pub(super) fn restored(endpoints: &str) -> BackendError {
    let reason = format!("etcd at {endpoints} has returned to an earlier revision, as after a restore from a backup");
    BackendError::new(ErrorKind::Unreachable, reason)
}

/// Returns the error of a refused request that has to be repeated all the same.
pub(super) fn to_be_repeated(error: BackendError) -> BackendError {
    if error.kind() == ErrorKind::Refused {
        BackendError::new(ErrorKind::Unreachable, error.to_string()).because(error)
    } else {
        error
    }
}

/// Returns the error of an endpoint that is a proxy.
pub(super) fn proxied(endpoint: &str) -> BackendError {
    let reason = format!(
        "locks through a gRPC proxy of etcd ({endpoint}), which renumbers watches; name the members of the cluster instead"
    );
    BackendError::new(ErrorKind::Unsupported, reason)
}

/// Returns the error of a call after `close`.
pub(super) fn closed() -> BackendError {
    BackendError::new(ErrorKind::Closed, "the connection to etcd was closed")
}

fn plain(message: &str) -> &str {
    message.strip_prefix("etcdserver: ").unwrap_or(message)
}

fn kind(error: &Error) -> ErrorKind {
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::LeaseKeepAliveError(reason) if reason.contains("lease not found") => return ErrorKind::LeaseLost,
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => return ErrorKind::Refused,
        _ => return ErrorKind::Unreachable,
    };
    let message = status.message();
    if is_stale_token(error) {
        return ErrorKind::Unreachable;
    }
    match status.code() as i32 {
        NOT_FOUND if message.contains("lease not found") => ErrorKind::LeaseLost,
        PERMISSION_DENIED | UNAUTHENTICATED => ErrorKind::Denied,
        INVALID_ARGUMENT if message.contains(WRONG_PASSWORD) || message.contains("user name is empty") => {
            ErrorKind::Denied
        }
        FAILED_PRECONDITION if message.contains("authentication is not enabled") => ErrorKind::Denied,
        // The server works, and would answer the same again: no reason to reconnect.
        _ if TOO_LARGE.into_iter().chain(UNREAD).any(|limit| message.contains(limit)) => ErrorKind::Refused,
        // "too many requests" has the same code and is temporary.
        RESOURCE_EXHAUSTED if message.contains(NO_SPACE) => ErrorKind::Refused,
        OUT_OF_RANGE if message.contains(COMPACTED) => ErrorKind::Refused,
        INVALID_ARGUMENT | FAILED_PRECONDITION | UNIMPLEMENTED => ErrorKind::Refused,
        _ => ErrorKind::Unreachable,
    }
}

/// Returns whether the token has to be renewed. etcd-client renews it only for the first of these messages.
pub(super) fn is_stale_token(error: &Error) -> bool {
    says(error, "invalid auth token") || says(error, "revision of auth store is old")
}

/// Returns whether the server does not accept the password.
pub(super) fn is_wrong_password(error: &Error) -> bool {
    says(error, WRONG_PASSWORD)
}

/// Returns the error of a password that was valid when the connection was opened, and may have been replaced since.
pub(super) fn outdated(endpoints: &str, error: Error) -> BackendError {
    let reason =
        format!("etcd at {endpoints} does not accept the credentials any more; connecting with the present ones");
    BackendError::new(ErrorKind::Unreachable, reason).because(error)
}

/// Returns whether the requested revision was compacted.
pub(super) fn is_compacted(error: &BackendError) -> bool {
    comes_from(error, COMPACTED)
}

/// Returns whether the lease was granted by an earlier copy of the request.
pub(super) fn is_lease_exists(error: &Error) -> bool {
    says(error, "lease already exists")
}

/// Returns whether the server accepts fewer operations in one transaction.
pub(super) fn is_too_many(error: &BackendError) -> bool {
    comes_from(error, TOO_MANY)
}

/// Returns whether the server has no space for a request.
pub(super) fn is_no_space(error: &BackendError) -> bool {
    comes_from(error, NO_SPACE)
}

/// Returns whether a request has more bytes than the server, or a proxy before it, accepts.
pub(super) fn is_too_large(error: &BackendError) -> bool {
    TOO_LARGE.into_iter().any(|limit| comes_from(error, limit))
}

/// Returns whether the request may have taken effect, though its answer is too large to be read.
pub(super) fn is_unread(error: &BackendError) -> bool {
    UNREAD.into_iter().any(|limit| comes_from(error, limit))
}

/// Returns whether a smaller request, or one with a smaller answer, may pass.
pub(super) fn is_size(error: &BackendError) -> bool {
    is_too_many(error) || is_too_large(error) || is_unread(error)
}

/// Returns whether authentication is off on the server.
pub(super) fn is_auth_off(error: &Error) -> bool {
    says(error, "authentication is not enabled")
}

fn comes_from(error: &BackendError, text: &str) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<Error>());
    cause.is_some_and(|cause| says(cause, text))
}

fn says(error: &Error, text: &str) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains(text))
}
