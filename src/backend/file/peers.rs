//! The leases of other managers.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fstat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;
use tokio::io::Interest;

use super::directory::Directory;
use super::error::failed;
use super::folder::{has_name, modified};
use super::key::KeyFile;
use super::life::remove_files;
use super::mailbox::{self, Message};
use super::names::LeaseName;
use super::record::Record;
use super::ticket::Place;
use super::verdict::{Signs, Verdict};
use super::watch::{Watched, watch};
use crate::backend::{Clock, Result, Timestamp};

/// The lease of another manager, or of this one as others see it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: LeaseName,
    pub(super) record: Record,
    /// Its FIFO, open for writing: reports an error once nobody reads it.
    life: Arc<OwnedFd>,
    mailbox: Option<OwnedFd>,
    /// Watch for the end of the life, and of the process.
    end: OnceLock<Option<Watched>>,
    exit: OnceLock<Exit>,
}

/// What can be known of the end of a process.
#[derive(Debug)]
enum Exit {
    Unknown,
    Exited,
    Watched(Watched),
}

impl Peer {
    /// Opens a lease. `None` if it has ended.
    fn open(directory: &Directory, name: LeaseName) -> Result<Option<Self>> {
        let life = [name.life(), name.out()].into_iter().find_map(|file| {
            let opened = directory.leases.open(&file, OFlags::WRONLY | OFlags::NONBLOCK);
            (opened.as_ref().err() != Some(&Errno::NOENT)).then_some(opened)
        });
        let life = match life {
            // No file, or no reader.
            None | Some(Err(Errno::NXIO)) => return Ok(None),
            Some(life) => life.map_err(|error| failed("look at the lease of another process", error))?,
        };
        let record = Record::read(&directory.leases, &name.record());
        let mailbox = mailbox::open(directory, &record.mailbox);
        Ok(Some(Self { name, record, life: Arc::new(life), mailbox, end: OnceLock::new(), exit: OnceLock::new() }))
    }

    /// Whether its process, or a fork of it, lives.
    fn has_reader(&self) -> bool {
        let mut fds = [PollFd::new(&*self.life, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An interrupted call says nothing; it is alive until something does.
        poll(&mut fds, Some(&now)).unwrap_or(0) == 0
    }

    fn verdict(&self, clock: &dyn Clock) -> Verdict {
        let Ok(stat) = fstat(&*self.life) else { return Verdict::Void };
        let signs = Signs {
            has_reader: self.has_reader(),
            has_name: has_name(&stat),
            renewed: Timestamp::from_nanos(modified(&stat)),
            ttl: self.record.ttl(),
        };
        signs.verdict(clock.now())
    }

    /// The time until the lease ends if it is not renewed.
    pub(super) fn remaining(&self, clock: &dyn Clock) -> Option<std::time::Duration> {
        match self.verdict(clock) {
            Verdict::Valid(until) => Some(until.since(clock.now())),
            Verdict::Void | Verdict::Expired => None,
        }
    }

    /// Sends a message to its manager.
    pub(super) fn send(&self, message: Message) {
        if let Some(mailbox) = &self.mailbox {
            mailbox::send(mailbox, message);
        }
    }

    /// Waits until nobody reads the FIFO any more.
    pub(super) async fn ended(&self) {
        let end = self.end.get_or_init(|| watch(self.life.clone(), Interest::ERROR));
        let Some(end) = end else { return std::future::pending().await };
        while self.has_reader() {
            match end.ready(Interest::ERROR).await {
                Ok(mut ready) if self.has_reader() => ready.clear_ready(),
                _ => return,
            }
        }
    }

    /// Waits until its process has ended, which a fork of it may outlive. Never completes for a process of another namespace, in
    /// which its number means another one.
    pub(super) async fn exited(&self, own_namespace: &str) {
        match self.exit.get_or_init(|| self.watch_process(own_namespace)) {
            Exit::Unknown => std::future::pending().await,
            Exit::Exited => {}
            // What is readable once is readable for good.
            Exit::Watched(process) => drop(process.readable().await),
        }
    }

    fn watch_process(&self, own_namespace: &str) -> Exit {
        let is_known = !own_namespace.is_empty() && self.record.pid_namespace == own_namespace;
        let Some(pid) = Pid::from_raw(self.record.pid.cast_signed()).filter(|_| is_known) else { return Exit::Unknown };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => watch(Arc::new(process), Interest::READABLE).map_or(Exit::Unknown, Exit::Watched),
            Err(Errno::SRCH) => Exit::Exited,
            Err(_) => Exit::Unknown,
        }
    }
}

/// The leases that have been met, by slot.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<u16, Vec<Arc<Peer>>>>,
}

impl Peers {
    pub(super) fn new(directory: Arc<Directory>, clock: Arc<dyn Clock>) -> Self {
        Self { directory, clock, known: Mutex::default() }
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Returns the lease that makes the claim at `place` count, and until when it does at least; `None` if the claim is void.
    pub(super) fn valid(&self, key: &KeyFile, place: Place, is_marked: bool) -> Result<Option<(Arc<Peer>, Timestamp)>> {
        for has_files in [false, true] {
            for peer in self.with_slot(place.slot(), has_files)? {
                if is_marked && self.is_marked(&peer, key, place)? {
                    continue;
                }
                if let Some(until) = self.valid_until(&peer) {
                    return Ok(Some((peer, until)));
                }
            }
        }
        Ok(None)
    }

    /// Whether a mark voids this claim.
    fn is_marked(&self, peer: &Peer, key: &KeyFile, place: Place) -> Result<bool> {
        let mark = self.directory.marks.stat(&peer.name.mark(key.inode, place));
        Ok(mark.map_err(|error| failed("look for a mark", error))?.is_some())
    }

    fn valid_until(&self, peer: &Arc<Peer>) -> Option<Timestamp> {
        match peer.verdict(&*self.clock) {
            Verdict::Valid(until) => Some(until),
            Verdict::Expired => self.expire(peer),
            Verdict::Void => {
                self.forget(peer);
                None
            }
        }
    }

    /// Takes the name of an expired lease away, so that it cannot be renewed any more, and only then looks whether it was renewed
    /// meanwhile. Returns until when it counts in that case.
    fn expire(&self, peer: &Arc<Peer>) -> Option<Timestamp> {
        // Without a name of its own it has been renamed or removed by another one.
        let _ = self.directory.leases.rename(&peer.name.life(), &peer.name.out());
        #[cfg(test)]
        super::gates::pass(super::gates::Gate::Renamed);
        match peer.verdict(&*self.clock) {
            Verdict::Valid(until) => Some(until),
            Verdict::Expired | Verdict::Void => {
                self.end(peer);
                None
            }
        }
    }

    /// Ends a lease whose claims are void, or are to be: their waiters and their manager check again.
    pub(super) fn end(&self, peer: &Arc<Peer>) {
        remove_files(&self.directory, peer.name);
        self.forget(peer);
        peer.send(Message::Check);
        mailbox::send_to_all(&self.directory, Message::LookAll);
    }

    fn forget(&self, peer: &Arc<Peer>) {
        let mut known = self.known.lock();
        if let Some(peers) = known.get_mut(&peer.name.slot) {
            peers.retain(|other| !Arc::ptr_eq(other, peer));
            if peers.is_empty() {
                known.remove(&peer.name.slot);
            }
        }
    }

    /// Forgets the leases that have ended.
    pub(super) fn prune(&self) {
        let peers: Vec<_> = self.known.lock().values().flatten().cloned().collect();
        for peer in peers {
            if peer.verdict(&*self.clock) == Verdict::Void {
                self.forget(&peer);
            }
        }
    }

    /// Returns the leases with a slot that are known, or those that have files.
    fn with_slot(&self, slot: u16, has_files: bool) -> Result<Vec<Arc<Peer>>> {
        if !has_files {
            return Ok(self.known.lock().get(&slot).cloned().unwrap_or_default());
        }
        let start = format!("{slot}.");
        let files = self.directory.leases.names().map_err(|error| failed("look at the leases", error))?;
        // ⚠ By any of its files: the FIFO may be missing because it is renamed meanwhile, and the lease was renewed before that.
        let ours = files.iter().filter(|file| file.starts_with(&start));
        let names: HashSet<_> = ours.filter_map(|file| LeaseName::of_file(file)).collect();
        names.into_iter().filter_map(|name| self.meet(name).transpose()).collect()
    }

    /// Returns a lease, which is opened unless it is known. `None` if it has ended.
    ///
    /// ⚠ Another thread may have met it a moment ago: it is returned all the same, or its claims would be taken for void.
    fn meet(&self, name: LeaseName) -> Result<Option<Arc<Peer>>> {
        let of_name = |peers: &Vec<Arc<Peer>>| peers.iter().find(|peer| peer.name == name).cloned();
        if let Some(known) = self.known.lock().get(&name.slot).and_then(of_name) {
            return Ok(Some(known));
        }
        let Some(peer) = Peer::open(&self.directory, name)?.map(Arc::new) else { return Ok(None) };
        self.known.lock().entry(name.slot).or_default().push(peer.clone());
        Ok(Some(peer))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::super::clock::AwakeClock;
    use super::super::gates::{Gate, at_each};
    use super::super::life::Life;
    use super::super::names::KeyName;
    use super::super::scratch::Scratch;
    use super::*;

    fn begin(directory: &Arc<Directory>) -> Life {
        let record = Record {
            version: 1,
            name: "n".into(),
            host: "h".into(),
            pid: std::process::id(),
            pid_namespace: String::new(),
            ttl_ms: 60_000,
            mailbox: String::new(),
        };
        Life::begin(directory, &record, &AwakeClock).unwrap().0
    }

    #[test]
    fn a_lease_that_is_renamed_while_the_leases_are_listed_counts() {
        let scratch = Scratch::new();
        let directory = Arc::new(Directory::open(scratch.path(), None).unwrap());
        let lives: Vec<_> = (0..200).map(|_| begin(&directory)).collect();
        let key = KeyFile::open(&directory, &KeyName::new("k")).unwrap();
        let is_missed = |life: &&Life| {
            let peers = Peers::new(directory.clone(), Arc::new(AwakeClock));
            let (directory, name, mut listed) = (directory.clone(), life.name, 0);
            // As by another manager that took it for expired, a moment after its renewal.
            let _stepping = at_each(move |gate| {
                listed += usize::from(gate == Gate::Listed);
                if listed == 200 {
                    directory.leases.rename(&name.life(), &name.out()).unwrap();
                }
            });
            peers.valid(&key, Place::new(1, name.slot).unwrap(), false).unwrap().is_none()
        };
        assert_eq!(lives.iter().filter(is_missed).count(), 0, "valid leases were taken for void");
    }

    #[test]
    fn a_lease_that_several_threads_meet_at_once_counts_for_all() {
        let scratch = Scratch::new();
        let directory = Arc::new(Directory::open(scratch.path(), None).unwrap());
        let life = begin(&directory);
        let key = KeyFile::open(&directory, &KeyName::new("k")).unwrap();
        let place = Place::new(1, life.name.slot).unwrap();
        for _ in 0..500 {
            let (peers, together) = (Peers::new(directory.clone(), Arc::new(AwakeClock)), Barrier::new(4));
            let counts = || {
                together.wait();
                peers.valid(&key, place, false).unwrap().is_some()
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(counts)).collect();
                assert!(threads.into_iter().all(|thread| thread.join().unwrap()), "it is alive");
            });
        }
    }
}
