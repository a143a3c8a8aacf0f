//! Derivation of the owner of a request.

use std::task::Context;

use super::{Owner, Scope, scope};

/// The source of a request's owner.
#[derive(Clone, Debug)]
pub(crate) enum OwnerSource {
    /// The context of its first poll.
    Context,
    /// The scope of its closure.
    Scope(Scope),
    /// An explicit owner.
    Owner(Owner),
}

/// The candidates for the owner of a request: the first one that holds the key, else `owner`.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The scopes around the request, the innermost first, then the context's owner.
    known: Vec<Owner>,
    owner: Owner,
}

impl Caller {
    /// The explicit owner; else the owner of the context `cx`, or the scope of the request's closure. A `separate` request has an owner
    /// of its own instead of the context's.
    pub(crate) fn new(cx: &Context<'_>, holder: &OwnerSource, reentrant: bool, separate: bool) -> Self {
        match holder {
            OwnerSource::Owner(owner) => Self { known: Vec::new(), owner: owner.clone() },
            OwnerSource::Scope(scope) if reentrant => {
                let mut known = scope::around(cx.waker());
                known.push(Owner::of_context(cx));
                Self { known, owner: scope.owner().clone() }
            }
            OwnerSource::Context if reentrant => {
                let (mut known, mut owner) = (scope::around(cx.waker()), Owner::of_context(cx));
                if separate {
                    known.push(std::mem::replace(&mut owner, Owner::new()));
                }
                Self { known, owner }
            }
            OwnerSource::Scope(scope) => Self { known: Vec::new(), owner: scope.owner().clone() },
            OwnerSource::Context => Self { known: Vec::new(), owner: Owner::new() },
        }
    }

    /// The owner of a request for a key that the owners in `holds` hold.
    pub(crate) fn for_key(&self, holds: impl Fn(&Owner) -> bool) -> Owner {
        self.known.iter().find(|owner| holds(owner)).unwrap_or(&self.owner).asking_here()
    }
}
