//! One sentinel, which is asked for the master each second, and whenever somebody wants to know.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::election::Master;
use super::options::{Node, Server, ServerKind, Target, Watched};
use super::{client, error, requirements};
use crate::backend::{BackendError, Result};

/// How often it is asked.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// The longest time to wait for its answer.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// The longest time to connect to it.
const CONNECTING: Duration = Duration::from_secs(2);

/// How often it is asked for the others, in rounds, unless their number has changed.
const OTHERS: u64 = 30;

/// How many others there may be.
pub(super) const MOST: usize = 32;

/// What a sentinel says.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) master: Master,
    /// Its id, from Redis 6.2 on.
    pub(super) id: Option<String>,
    /// The other sentinels that it knows.
    pub(super) others: Vec<Other>,
}

/// A sentinel that another one names.
#[derive(Clone, Debug)]
pub(super) struct Other {
    pub(super) node: Node,
    pub(super) id: String,
}

/// The outcome of a round.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) node: Node,
    /// The last question that had been put when it was asked.
    pub(super) question: u64,
    pub(super) report: Result<Report>,
}

/// A sentinel.
pub(super) struct Sentinel {
    node: Node,
    target: Target,
    /// The name of the master.
    master: String,
    ticks: Interval,
    /// Counts the questions that cannot wait for the next second.
    questions: watch::Receiver<u64>,
    question: u64,
    said: mpsc::UnboundedSender<Said>,
}

impl Sentinel {
    pub(super) fn new(
        watched: &Watched,
        node: Node,
        questions: watch::Receiver<u64>,
        said: mpsc::UnboundedSender<Said>,
    ) -> Self {
        let (address, account) = (node.address(watched.tls.as_ref()), watched.account.clone());
        let target = Target::Server(Server { address, account, database: 0 });
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { node, target, master: watched.master.clone(), ticks, questions, question: 0, said }
    }

    /// Asks without end, on one connection after another.
    pub(super) async fn ask(mut self) {
        loop {
            self.turn().await;
            let error = self.ask_on_one().await;
            self.say(Err(error::of_sentinel(error)));
        }
    }

    /// Waits until it is to be asked.
    async fn turn(&mut self) {
        tokio::select! {
            _ = self.ticks.tick() => {}
            Ok(()) = self.questions.changed() => self.ticks.reset(),
        }
        self.question = *self.questions.borrow_and_update();
    }

    fn say(&self, report: Result<Report>) {
        // Without a receiver this task is about to end.
        let _ = self.said.send(Said { node: self.node.clone(), question: self.question, report });
    }

    /// Asks on one connection until it fails.
    async fn ask_on_one(&mut self) -> BackendError {
        let opening = async {
            let account = self.target.credentials(CONNECTING).await?;
            let mut connection = client::connect(&self.target, account.as_ref()).await?;
            let id = redis::cmd("SENTINEL").arg("MYID").query_async::<String>(&mut connection).await.ok();
            Ok((connection, id))
        };
        let (mut connection, id) = match self.within(CONNECTING, opening).await {
            Ok(opened) => opened,
            Err(error) => return error,
        };
        let (mut others, mut rounds) = (Vec::new(), 0);
        loop {
            let asking = async {
                // In this order: an epoch must not come with the master before it. The sentinel may hear of a failover in between.
                let fields: HashMap<String, String> = self.request(&mut connection, "MASTER").await?;
                let (host, port): (String, u16) = self.request(&mut connection, "GET-MASTER-ADDR-BY-NAME").await?;
                let malformed = || error::malformed(&self.target.to_string());
                let node = Node::named(&host, port).ok_or_else(malformed)?;
                let count = fields.get("num-other-sentinels").and_then(|count| count.parse().ok());
                if rounds % OTHERS == 0 || count != Some(others.len()) {
                    others = self.others(&mut connection).await?;
                }
                rounds += 1;
                let epoch = fields.get("config-epoch").and_then(|epoch| epoch.parse().ok());
                let master = Master { epoch: epoch.ok_or_else(malformed)?, node };
                Ok(Report { master, id: id.clone(), others: others.clone() })
            };
            match self.within(PATIENCE, asking).await {
                Ok(report) => self.say(Ok(report)),
                Err(error) => return error,
            }
            self.turn().await;
        }
    }

    async fn within<T>(&self, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| Err(error::no_answer(&self.target.to_string(), limit));
        timeout(limit, work).await.unwrap_or_else(late)
    }

    async fn others(&self, connection: &mut MultiplexedConnection) -> Result<Vec<Other>> {
        let listed: Vec<HashMap<String, String>> = self.request(connection, "SENTINELS").await?;
        let other = |mut fields: HashMap<String, String>| {
            let port = fields.get("port")?.parse().ok()?;
            Some(Other { node: Node::named(fields.get("ip")?, port)?, id: fields.remove("runid")? })
        };
        Ok(listed.into_iter().filter_map(other).take(MOST).collect())
    }

    /// Requests something about the master.
    async fn request<T: FromRedisValue>(&self, connection: &mut MultiplexedConnection, what: &str) -> Result<T> {
        let mut command = Cmd::new();
        command.arg("SENTINEL").arg(what).arg(&self.master);
        match command.query_async(connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain(connection, &error).await),
        }
    }

    async fn explain(&self, connection: &mut MultiplexedConnection, error: &RedisError) -> BackendError {
        if error.detail().is_some_and(|text| text.to_ascii_lowercase().contains("no such master")) {
            error::unknown_master(&self.node.to_string(), &self.master)
        } else if error::is_unknown_command(error) {
            requirements::lacks(&self.target, "SENTINEL", ServerKind::Sentinel, connection).await
        } else {
            client::explain(&self.target, error)
        }
    }
}
