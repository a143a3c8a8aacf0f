//! The guide.
//!
//! | Start here | |
//! | --- | --- |
//! | [`tour`] | The calls of everyday use, for async code and threads |
//! | [`choosing`] | How to choose a backend and a TTL |
//! | [`configuration`] | URLs, options, configuration files, errors, logs, traces and metrics |
//! | [`cli`] | The program `leasehold` |
//! | [`jobs`] | Jobs that one of many instances runs: schedulers, migrations, cron |
//!
//! | Semantics | |
//! | --- | --- |
//! | [`guarantees`] | What is guaranteed, under which conditions, and what is not |
//! | [`ownership`] | The owner of a hold: tasks, threads, explicit owners; reentrancy, sharing, several keys |
//! | [`loss`] | How a loss is reported, whether it comes before the next holder, and how to handle it |
//! | [`fencing`] | Refusing the late writes of an outdated holder |
//! | [`coordination`] | Semaphores, values, watching, leaders, and holders that yield |
//! | [`cancellation`] | What happens to futures, guards, managers and processes that end early |
//! | [`faults`] | What happens when something fails: a list of faults on each backend, with measured times |
//!
//! | Operation | |
//! | --- | --- |
//! | [`file`](mod@file) | Files: the processes of one machine, permissions, containers |
//! | [`etcd`] | etcd: failures, other clients, data on the server |
//! | [`redis`] | Redis: replication, other clients, accounts, data on the server |
//! | [`security`] | Trust, permissions and transport on each backend |
//! | [`testing`] | Tests of your code against lost locks |
//!
//! | Other libraries | |
//! | --- | --- |
//! | [`compare`] | leasehold beside other lock libraries |
//! | [`performance`] | Measured beside the bare clients and other libraries |
//! | [`migrating`] | Coming from another lock library |

#[doc = include_str!("../docs/tour.md")]
pub mod tour {}

#[doc = include_str!("../docs/choosing.md")]
pub mod choosing {}

#[doc = include_str!("../docs/configuration.md")]
pub mod configuration {}

#[doc = include_str!("../docs/cli.md")]
pub mod cli {}

#[doc = include_str!("../docs/jobs.md")]
pub mod jobs {}

#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("../docs/ownership.md")]
pub mod ownership {}

#[doc = include_str!("../docs/loss.md")]
#[doc = ""]
#[doc = "# The life of a lock"]
#[doc = ""]
#[doc = include_str!("../docs/lock-lifetime.svg")]
pub mod loss {}

#[doc = include_str!("../docs/fencing.md")]
pub mod fencing {}

#[doc = include_str!("../docs/coordination.md")]
pub mod coordination {}

#[doc = include_str!("../docs/cancellation.md")]
pub mod cancellation {}

#[doc = include_str!("../docs/faults.md")]
pub mod faults {}

#[doc = include_str!("../docs/file.md")]
pub mod file {}

#[doc = include_str!("../docs/etcd.md")]
pub mod etcd {}

#[doc = include_str!("../docs/redis.md")]
pub mod redis {}

#[doc = include_str!("../docs/security.md")]
pub mod security {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}

#[doc = include_str!("../docs/compare.md")]
pub mod compare {}

#[doc = include_str!("../docs/performance.md")]
#[doc = ""]
#[doc = include_str!("../docs/performance-redis.svg")]
#[doc = ""]
#[doc = include_str!("../docs/performance-cluster.svg")]
#[doc = ""]
#[doc = include_str!("../docs/performance-etcd.svg")]
#[doc = ""]
#[doc = include_str!("../docs/performance-memory.svg")]
#[doc = ""]
#[doc = include_str!("../docs/performance-rest.svg")]
pub mod performance {}

#[doc = include_str!("../docs/migrating.md")]
pub mod migrating {}
