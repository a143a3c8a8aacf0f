//! The owner that a request is for.

use std::task::Context;

use super::{Owner, Scope, scope};

/// Whom a request may be for: the first of those that hold the key, else the last.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The scopes around the request, the innermost first, and the context's owner.
    known: Vec<Owner>,
    owner: Owner,
}

impl Caller {
    /// The owner that was named; else what `cx` stands for, where `scope` is that of the closure that the request is for.
    pub(crate) fn new(cx: &Context<'_>, named: Option<&Owner>, reentrant: bool, scope: Option<&Scope>) -> Self {
        let scope = scope.map(Scope::owner);
        if let Some(owner) = named {
            return Self { known: Vec::new(), owner: owner.clone() };
        }
        if !reentrant {
            return Self { known: Vec::new(), owner: scope.cloned().unwrap_or_else(Owner::new) };
        }
        let (mut known, context) = (scope::around(cx.waker()), Owner::of_context(cx));
        match scope {
            Some(scope) => {
                known.push(context);
                Self { known, owner: scope.clone() }
            }
            None => Self { known, owner: context },
        }
    }

    /// The owner for a key, given which ones hold it.
    pub(crate) fn for_key(&self, holds: impl Fn(&Owner) -> bool) -> Owner {
        self.known.iter().find(|owner| holds(owner)).unwrap_or(&self.owner).asking_here()
    }
}
