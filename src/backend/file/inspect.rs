//! What is seen of keys and their holders, and evictions.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use super::error::failed;
use super::key::KeyFile;
use super::keys::Keys;
use super::locks::{Found, Sees};
use super::mailbox::{Message, send_to_all};
use super::names::{KeyName, is_hashed, key_of};
use super::peers::{Peer, Peers};
use super::search::all;
use super::site::{Site, Sites};
use super::ticket::micros;
use crate::backend::{Evict, EvictScope, Result};
use crate::info::{ClaimId, Eviction, LockInfo, Mode};
use crate::token::FencingToken;

/// Reads keys, and evicts their holders.
#[derive(Debug)]
pub(super) struct Inspector {
    pub(super) sites: Arc<Sites>,
    pub(super) keys: Arc<Keys>,
}

/// A claim that counts, and its lease.
struct Seen {
    claim: Found,
    peer: Arc<Peer>,
}

impl Seen {
    fn id(&self) -> ClaimId {
        ClaimId::new(format!("{}-{:x}", self.peer.name.id, self.claim.place.byte()))
    }
}

/// The claims on a key that count.
struct Claims {
    file: KeyFile,
    holders: Vec<Seen>,
    waiters: usize,
}

impl Claims {
    /// Reads the claims on a key; `None` if nobody holds it. The file was opened for that, so that it shows those of this manager.
    fn read(site: &Site, file: KeyFile) -> Result<Option<Self>> {
        let state = file.state()?;
        if !state.has_name {
            return Ok(None);
        }
        let found = all(|range| file.query(Sees::All, range)).map_err(|error| failed("look at the queue", error))?;
        let (mut holders, mut waiters) = (Vec::<Seen>::new(), 0);
        for claim in found {
            let Some((peer, _)) = site.peers.valid(&file, claim.place, state.is_marked)? else { continue };
            let is_holder =
                waiters == 0 && holders.first().is_none_or(|first| [first.claim.mode, claim.mode] == [Mode::Shared; 2]);
            if is_holder {
                holders.push(Seen { claim, peer });
            } else {
                waiters += 1;
            }
        }
        Ok((!holders.is_empty()).then_some(Self { file, holders, waiters }))
    }

    fn info(&self, key: &str, peers: &Peers) -> Option<LockInfo> {
        let mut info = LockInfo::new(key, self.holders.first()?.claim.mode);
        let epochs = &self.file.directory.epochs;
        let shown = self.file.shown().filter(|(place, _)| self.holders.iter().any(|seen| seen.claim.place == *place));
        info.token = shown.map(|(_, epoch)| FencingToken::of_epoch(epoch));
        // A holder that has just been granted has not written it yet.
        let since = shown.and_then(|(_, epoch)| epochs.time(epoch));
        info.since = since.or_else(|| self.holders.iter().map(|seen| seen.claim.place.ticket()).max()).map(date);
        info.remaining = self.holders.iter().filter_map(|seen| seen.peer.remaining(peers.clock())).min();
        info.holders = self.holders.iter().map(|seen| seen.peer.record.holder()).collect();
        info.values = vec![None; info.holders.len()];
        info.claims = self.holders.iter().map(Seen::id).collect();
        info.waiters = self.waiters;
        Some(info)
    }
}

/// The date of a time since the start of the system, in microseconds.
fn date(since_start: u64) -> SystemTime {
    SystemTime::now() - Duration::from_micros(micros().saturating_sub(since_start))
}

impl Inspector {
    pub(super) async fn inspect(&self, key: &str) -> Result<Option<LockInfo>> {
        let (site, key, name) = (self.sites.current()?, key.to_owned(), self.keys.name(key));
        self.do_work(move || {
            let Some(file) = KeyFile::open_existing(&site.directory, &name)? else { return Ok(None) };
            let claims = Claims::read(&site, file)?;
            Ok(claims.and_then(|claims| claims.info(&key, &site.peers)))
        })
        .await
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<LockInfo>> {
        let (site, keys, prefix) = (self.sites.current()?, self.keys.clone(), prefix.to_owned());
        self.do_work(move || {
            let mut listed = Vec::new();
            for (key, claims) in held(&site, &keys, &prefix)? {
                listed.extend(claims.info(&key, &site.peers));
            }
            listed.sort_unstable_by(|one, other| one.key.cmp(&other.key));
            Ok(listed)
        })
        .await
    }

    pub(super) async fn evict(&self, key: &str, evict: &Evict) -> Result<Eviction> {
        let (site, keys, key, evict) = (self.sites.current()?, self.keys.clone(), key.to_owned(), evict.clone());
        self.do_work(move || {
            let Some(file) = KeyFile::open_existing(&site.directory, &keys.name(&key))? else {
                return Ok(Eviction::default());
            };
            let Some(mut claims) = Claims::read(&site, file)? else { return Ok(Eviction::default()) };
            claims.holders.retain(|seen| evict.is_for(&seen.id()));
            if claims.holders.is_empty() {
                return Ok(Eviction::default());
            }
            let holders = claims.holders.iter().map(|seen| seen.peer.record.holder()).collect();
            let released = match evict.scope {
                EvictScope::Claim => {
                    end_claims(&site, &claims)?;
                    vec![key]
                }
                EvictScope::Lease => end_leases(&site, &keys, &claims)?,
            };
            Ok(Eviction::new(holders, released))
        })
        .await
    }

    pub(super) async fn ping(&self) -> Result<()> {
        let site = self.sites.current()?;
        self.do_work(move || {
            let slots = site.directory.root.open("slots", OFlags::RDONLY);
            slots.map(drop).map_err(|error| failed("look at the directory", error))
        })
        .await
    }

    async fn do_work<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let site = self.sites.current()?;
        self.sites.do_path_work(&site.directory, work).await?
    }
}

/// The keys with a prefix that are held, with their claims.
fn held(site: &Site, keys: &Keys, prefix: &str) -> Result<Vec<(String, Claims)>> {
    let mut held = Vec::new();
    for file in site.directory.keys.names().map_err(|error| failed("look at the keys", error))? {
        let is_of = |key: &String| key.strip_prefix(keys.prefix()).is_some_and(|key| key.starts_with(prefix));
        let named = key_of(&file);
        if named.as_ref().is_some_and(|key| !is_of(key)) || (named.is_none() && !is_hashed(&file)) {
            continue;
        }
        let name = KeyName { file, inside: None };
        let Some(opened) = KeyFile::open_existing(&site.directory, &name)? else { continue };
        let Some(key) = named.or_else(|| opened.key_inside()).filter(is_of) else { continue };
        if let Some(claims) = Claims::read(site, opened)? {
            held.push((key[keys.prefix().len()..].to_owned(), claims));
        }
    }
    Ok(held)
}

/// Ends the leases of claims. Returns all keys that this releases.
fn end_leases(site: &Site, keys: &Keys, claims: &Claims) -> Result<Vec<String>> {
    let is_evicted = |seen: &Seen| claims.holders.iter().any(|evicted| evicted.peer.name == seen.peer.name);
    let mut released: Vec<_> = held(site, keys, "")?
        .into_iter()
        .filter(|(_, claims)| claims.holders.iter().any(is_evicted))
        .map(|(key, _)| key)
        .collect();
    released.sort_unstable();
    for seen in &claims.holders {
        site.peers.end(&seen.peer);
    }
    Ok(released)
}

/// Marks claims as void.
fn end_claims(site: &Site, claims: &Claims) -> Result<()> {
    let failed = |error| failed("mark a claim", error);
    for seen in &claims.holders {
        let mark = seen.peer.name.mark(claims.file.inode, seen.claim.place);
        match site.directory.marks.create(&mark) {
            Ok(_) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    claims.file.set_marked()?;
    for seen in &claims.holders {
        seen.peer.send(Message::Check);
    }
    send_to_all(&site.directory, Message::LookAll);
    Ok(())
}
