//! What `leasehold doctor` finds.

use std::time::Instant;

use leasehold::doctor::{Level, Report, examine};

use crate::PATIENCE;

/// Examines the servers of a URL.
///
/// # Panics
///
/// If that takes too long.
pub fn report(url: &str) -> Report {
    let begun = Instant::now();
    let report = examine(url).wait().unwrap();
    assert!(begun.elapsed() < 2 * PATIENCE, "it took {:?}", begun.elapsed());
    for finding in &report.findings {
        println!("{:?} {} {}: {} {:?}", finding.level, finding.check, finding.at, finding.found, finding.advice);
    }
    report
}

/// The findings of this level, each as check, server, text and advice.
pub fn found(url: &str, level: Level) -> Vec<String> {
    let found = report(url).findings.into_iter().filter(|finding| finding.level == level);
    found.map(|it| format!("{} {} {} {}", it.check, it.at, it.found, it.advice.unwrap_or_default())).collect()
}

/// The findings that something is wrong.
pub fn wrong(url: &str) -> Vec<String> {
    found(url, Level::Wrong)
}

/// Checks that one of the findings begins with the check, and has all of these texts.
///
/// # Panics
///
/// If there is none.
pub fn assert_found(findings: &[String], check: &str, texts: &[&str]) {
    let is_it = |finding: &String| finding.starts_with(check) && texts.iter().all(|text| finding.contains(text));
    assert!(findings.iter().any(is_it), "{check} {texts:?}: {findings:#?}");
}
