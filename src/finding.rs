//! What an examination of a server finds.

use std::time::Duration;

use serde::Serialize;

/// How good a finding is, from the best on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Locks work, with less than they could have.
    Note,
    /// Locks do not work, or will not work when something else fails.
    Wrong,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The server, or all of them. As the server has named itself: to be displayed escaped.
    pub at: String,
    /// What was examined, in a word or two.
    pub check: &'static str,
    /// How good it is.
    pub level: Level,
    /// What was found. It may have texts of the server: to be displayed escaped.
    pub found: String,
    /// What to do, unless it is as it should be. It has no texts of the server.
    pub advice: Option<String>,
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The findings, those about one server in a row.
    pub findings: Vec<Finding>,
    /// The shortest TTL that survives what these servers may do, if they demand one.
    pub minimum_ttl: Option<Duration>,
}

impl Report {
    /// Returns the level of the worst finding.
    pub fn level(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }
}

/// The findings about one server.
#[derive(Debug)]
pub(crate) struct Findings {
    at: String,
    list: Vec<Finding>,
}

impl Findings {
    pub(crate) fn of(at: impl Into<String>) -> Self {
        Self { at: at.into(), list: Vec::new() }
    }

    pub(crate) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Level::Ok, found.into(), None);
    }

    pub(crate) fn note(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Level::Note, found.into(), Some(advice.into()));
    }

    pub(crate) fn wrong(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Level::Wrong, found.into(), Some(advice.into()));
    }

    fn add(&mut self, check: &'static str, level: Level, found: String, advice: Option<String>) {
        self.list.push(Finding { at: self.at.clone(), check, level, found, advice });
    }

    pub(crate) fn into_list(self) -> Vec<Finding> {
        self.list
    }

    /// What is not as it should be, in a test.
    #[cfg(test)]
    pub(crate) fn faults(self) -> Vec<Finding> {
        let list = self.list;
        assert!(list.iter().all(|finding| (finding.level == Level::Ok) == finding.advice.is_none()), "{list:#?}");
        list.into_iter().filter(|finding| finding.level > Level::Ok).collect()
    }
}

/// Checks in a test that there is this fault and no other, and that it says this.
#[cfg(all(test, any(feature = "etcd", feature = "redis")))]
pub(crate) fn assert_only(found: &[Finding], check: &str, level: Level, text: &str) {
    let says_it = |finding: &Finding| {
        let said = format!("{} {}", finding.found, finding.advice.clone().unwrap_or_default());
        finding.check == check && finding.level == level && said.contains(text)
    };
    assert!(found.len() == 1 && found.iter().all(says_it), "{check} {text:?}: {found:#?}");
}
