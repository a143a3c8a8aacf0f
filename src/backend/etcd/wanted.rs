//! Whether others wait for the key of a grant.

use std::sync::Arc;

use super::directory_watch::{DirectoryWatch, News};
use super::granted::GrantedClaim;
use super::kind::Kind;
use super::names::Directory;
use super::parts::Parts;
use super::watch::hub::{Change, Filter};
use super::{error, release};
use crate::backend::{Grant, Result};

/// A grant whose key others may wait for.
struct Held {
    claim: Arc<GrantedClaim>,
    kind: Kind,
    directory: Directory,
}

/// What is seen in a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Nothing,
    /// A claim that may hold the key as well: the directory has to be read.
    Unclear,
    Waiter,
}

impl Held {
    fn sees(&self, change: &Change) -> Seen {
        let Some(put) = &change.put else { return Seen::Nothing };
        // Its own claim, or a touched one.
        if *change.name == *self.claim.name || put.version > 1 {
            return Seen::Nothing;
        }
        match (self.kind, self.directory.kind(&change.name)) {
            (Kind::Shared, Kind::Shared) => Seen::Nothing,
            (Kind::Slot(_), Kind::Slot(_)) => Seen::Unclear,
            _ => Seen::Waiter,
        }
    }
}

/// Waits until another claim waits for the key of a grant.
pub(super) async fn wait(parts: &Parts, grant: &Grant) -> Result<()> {
    let lost = || error::claim_lost(parts.connection.endpoints());
    let claim = release::granted_claim(grant).ok_or_else(lost)?;
    let directory = parts.inspector.directory(&grant.key);
    let mut watch = DirectoryWatch::new(parts.connection.hub(), &directory, Filter::Puts);
    let held = Held { kind: directory.kind(&claim.name), claim, directory };
    loop {
        let news = match watch.next().await {
            News::Unknown => Seen::Unclear,
            News::Changed(changes) => changes.iter().map(|change| held.sees(change)).max().unwrap_or(Seen::Nothing),
        };
        match news {
            Seen::Nothing => {}
            Seen::Waiter => return Ok(()),
            Seen::Unclear => {
                if parts.inspector.has_waiters(&grant.key, &held.claim).await?.ok_or_else(lost)? {
                    return Ok(());
                }
                watch.has_been_read();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbKeyValue;

    use super::super::names::Names;
    use super::super::position::ClaimKey;
    use super::*;
    use crate::backend::LeaseId;

    #[test]
    fn news_are_claims_that_may_have_to_wait() {
        let directory = Names::new("p/".into()).directory("k");
        let change = |kind, version| {
            let name = directory.claim(kind, LeaseId(2), 1);
            let put = PbKeyValue { key: name.to_vec(), version, ..PbKeyValue::default() };
            Change { name, at: 7, put: Some(put) }
        };
        let [exclusive, shared, slot] = [Kind::Exclusive, Kind::Shared, Kind::Slot(2)].map(|kind| {
            let claim = ClaimKey { name: directory.claim(kind, LeaseId(1), 1), create: 5 };
            Held { claim: Arc::new(GrantedClaim::new(claim)), kind, directory: directory.clone() }
        });
        for (held, by_exclusive, by_shared, by_slot) in [
            (&exclusive, Seen::Waiter, Seen::Waiter, Seen::Waiter),
            (&shared, Seen::Waiter, Seen::Nothing, Seen::Waiter),
            (&slot, Seen::Waiter, Seen::Waiter, Seen::Unclear),
        ] {
            let news = [Kind::Exclusive, Kind::Shared, Kind::Slot(3)].map(|kind| held.sees(&change(kind, 1)));
            assert_eq!(news, [by_exclusive, by_shared, by_slot], "{:?}", held.kind);
            assert_eq!(held.sees(&change(Kind::Slot(3), 2)), Seen::Nothing, "a touch");
            let own = Change { name: held.claim.name.clone(), ..change(held.kind, 1) };
            assert_eq!(held.sees(&own), Seen::Nothing);
            assert_eq!(held.sees(&Change { put: None, ..change(Kind::Exclusive, 1) }), Seen::Nothing, "a deletion");
        }
    }
}
