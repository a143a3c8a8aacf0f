//! The owner that a request is for.

use std::task::Context;

use super::{Owner, Scope, scope};

/// What a request is to hold for.
#[derive(Clone, Debug)]
pub(crate) enum OwnerSource {
    /// Whatever polls it.
    Context,
    /// The closure that it is for.
    Scope(Scope),
    /// An explicit owner.
    Owner(Owner),
}

/// Whom a request may be for: the first of those that hold the key, else the last.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The scopes around the request, the innermost first, and the context's owner.
    known: Vec<Owner>,
    owner: Owner,
}

impl Caller {
    /// The owner that was named; else what `cx` stands for, or the scope of the closure that the request is for.
    pub(crate) fn new(cx: &Context<'_>, holder: &OwnerSource, reentrant: bool) -> Self {
        match holder {
            OwnerSource::Owner(owner) => Self { known: Vec::new(), owner: owner.clone() },
            OwnerSource::Scope(scope) if reentrant => {
                let mut known = scope::around(cx.waker());
                known.push(Owner::of_context(cx));
                Self { known, owner: scope.owner().clone() }
            }
            OwnerSource::Context if reentrant => {
                Self { known: scope::around(cx.waker()), owner: Owner::of_context(cx) }
            }
            OwnerSource::Scope(scope) => Self { known: Vec::new(), owner: scope.owner().clone() },
            OwnerSource::Context => Self { known: Vec::new(), owner: Owner::new() },
        }
    }

    /// The owner for a key, given which ones hold it.
    pub(crate) fn for_key(&self, holds: impl Fn(&Owner) -> bool) -> Owner {
        self.known.iter().find(|owner| holds(owner)).unwrap_or(&self.owner).asking_here()
    }
}
