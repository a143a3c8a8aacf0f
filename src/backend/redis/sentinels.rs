//! Watching the sentinels of a master: those of the URL, and those that they name.
//!
//! What their answers mean is decided in [`election`](Election). Managers share the watch of a master.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep_until, timeout};

use super::election::{Election, Master, Votes};
use super::error;
use super::options::{Node, Watched};
use super::sentinel::{MOST, PATIENCE, PERIOD, Report, Said, Sentinel};
use crate::backend::{BackendError, ErrorKind, Result};
use crate::process::report::{debug, info};

/// The watch of one master.
#[derive(Debug)]
pub(super) struct Sentinels {
    master: watch::Receiver<Master>,
    questions: watch::Sender<u64>,
    /// The last question that was answered.
    answered: watch::Receiver<u64>,
    task: AbortHandle,
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sentinels {
    /// Starts to watch. Waits until a majority of the sentinels has answered, or all that do.
    pub(super) async fn open(watched: Watched, limit: Duration, handle: Handle) -> Result<Arc<Self>> {
        let (limit, name) = (limit / 2, watched.master.clone());
        let questions = watch::Sender::new(0);
        let mut watcher = Watcher::new(watched, handle.clone(), questions.subscribe());
        let deadline = Instant::now() + limit;
        let first = loop {
            let is_complete = tokio::select! {
                biased;
                () = watcher.hear() => watcher.asked.values().all(|asked| asked.last.is_some()),
                () = sleep_until(deadline.into()) => true,
            };
            watcher.count(is_complete);
            match watcher.election.master() {
                Some(master) => break master.clone(),
                None if is_complete => return Err(watcher.failure().unwrap_or_else(|| error::no_answer(&name, limit))),
                None => {}
            }
        };
        let ((changes, master), (answers, answered)) = (watch::channel(first), watch::channel(0));
        let task = handle.spawn(watcher.run(changes, answers)).abort_handle();
        Ok(Arc::new(Self { master, questions, answered, task }))
    }

    /// Returns the present master, and its changes.
    pub(super) fn master(&self) -> watch::Receiver<Master> {
        self.master.clone()
    }

    /// Asks the sentinels now. Waits until a majority has answered; not for long, since they may all be down.
    pub(super) async fn ask(&self) {
        let mut question = 0;
        self.questions.send_modify(|last| {
            *last += 1;
            question = *last;
        });
        let mut answered = self.answered.clone();
        let answer = answered.wait_for(|answered| *answered >= question);
        if timeout(PATIENCE, answer).await.is_err() {
            debug!(target: "leasehold::redis", "most sentinels do not answer");
        }
    }
}

/// A sentinel that is being asked.
#[derive(Debug)]
struct Asked {
    task: AbortHandle,
    /// What it has said last, and when; `None` before its first answer.
    last: Option<(Instant, Said)>,
    /// Its id, once it has said it.
    id: Option<String>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asked {
    /// What it says. One that does not answer any more may not know the last failover.
    fn report(&self) -> Option<&Report> {
        let (at, said) = self.last.as_ref()?;
        said.report.as_ref().ok().filter(|_| at.elapsed() < 2 * PERIOD)
    }

    /// The question that it has answered last.
    fn question(&self) -> u64 {
        self.last.as_ref().map_or(0, |(_, said)| said.question)
    }
}

struct Watcher {
    watched: Watched,
    handle: Handle,
    asked: HashMap<Node, Asked>,
    questions: watch::Receiver<u64>,
    sender: mpsc::UnboundedSender<Said>,
    answers: mpsc::UnboundedReceiver<Said>,
    election: Election,
}

impl Watcher {
    fn new(watched: Watched, handle: Handle, questions: watch::Receiver<u64>) -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        let (asked, election) = (HashMap::new(), Election::default());
        let mut watcher = Self { watched, handle, asked, questions, sender, answers, election };
        watcher.ask_all();
        watcher
    }

    async fn run(mut self, changes: watch::Sender<Master>, answers: watch::Sender<u64>) {
        loop {
            self.hear().await;
            if self.count(true)
                && let Some(master) = self.election.master()
            {
                info!(target: "leasehold::redis", "the master {:?} is at {} now", self.watched.master, master.node);
                changes.send_replace(master.clone());
            }
            answers.send_replace(self.answered());
        }
    }

    /// Waits for the next answer of a sentinel.
    async fn hear(&mut self) {
        // Never none: `self` has a sender.
        let Some(said) = self.answers.recv().await else { return };
        if let Err(error) = &said.report {
            debug!(target: "leasehold::redis", "{error}");
        }
        if let Some(asked) = self.asked.get_mut(&said.node) {
            if let Ok(report) = &said.report {
                asked.id.clone_from(&report.id);
            }
            asked.last = Some((Instant::now(), said));
            self.ask_all();
        }
    }

    /// Asks the sentinels of the URL and those that they name, each once.
    fn ask_all(&mut self) {
        let given = &self.watched.sentinels;
        let known: HashSet<_> = given.iter().filter_map(|node| self.asked.get(node)?.id.as_ref()).collect();
        let named = self.asked.values().filter_map(Asked::report).flat_map(|report| &report.others);
        // By another name than in the URL, perhaps.
        let named = named.filter(|other| !known.contains(&other.id)).map(|other| &other.node);
        let wanted: HashSet<Node> = given.iter().chain(named).take(MOST).cloned().collect();
        self.asked.retain(|node, _| wanted.contains(node));
        for node in wanted {
            if !self.asked.contains_key(&node) {
                let sentinel = Sentinel::new(&self.watched, node.clone(), self.questions.clone(), self.sender.clone());
                let task = self.handle.spawn(sentinel.ask()).abort_handle();
                self.asked.insert(node, Asked { task, last: None, id: None });
            }
        }
    }

    /// The last question that most sentinels have answered, or all have, some by an error.
    fn answered(&self) -> u64 {
        let mut reported: Vec<_> =
            self.asked.values().filter(|asked| asked.report().is_some()).map(Asked::question).collect();
        reported.sort_unstable_by(|a, b| b.cmp(a));
        let by_most = reported.get(self.asked.len() / 2).copied().unwrap_or_default();
        let by_all = self.asked.values().map(Asked::question).min().unwrap_or_default();
        by_most.max(by_all)
    }

    /// Counts what the sentinels have said of late. Returns whether there is another master now.
    fn count(&mut self, complete: bool) -> bool {
        let reports = || self.asked.values().filter_map(Asked::report);
        let masters: Vec<_> = reports().map(|report| report.master.clone()).collect();
        let others = reports().map(|report| report.others.len() + 1).max().unwrap_or_default();
        let sentinels = self.asked.len().max(others);
        self.election.count(Votes { masters: &masters, sentinels, complete }, Instant::now())
    }

    /// The error that says most.
    fn failure(&self) -> Option<BackendError> {
        let failures = self.asked.values().filter_map(|asked| asked.last.as_ref()?.1.report.as_ref().err());
        let weight = |error: &&BackendError| match error.kind() {
            ErrorKind::Unreachable => 0,
            ErrorKind::Misconfigured => 1,
            _ => 2,
        };
        failures.max_by_key(weight).cloned()
    }
}
