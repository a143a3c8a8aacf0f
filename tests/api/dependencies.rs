//! The library's dependencies, with all features on all platforms: their licences, duplicates and sources, by the rules of `deny.toml`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The texts of a list in `deny.toml`.
fn listed(name: &str) -> BTreeSet<String> {
    let rules = fs::read_to_string(root().join("deny.toml")).unwrap();
    let (_, rest) = rules.split_once(&format!("\n{name} = [")).unwrap();
    let list = rest.split_once(']').unwrap().0;
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Each dependency as `name@version`, with its licence.
fn dependencies() -> BTreeSet<(String, String)> {
    let cargo = std::env::var_os("CARGO").unwrap();
    let mut command = Command::new(cargo);
    command.args(["tree", "--locked", "--package", "leasehold", "--edges", "normal,build", "--target", "all"]);
    command.args(["--all-features", "--prefix", "none", "--no-dedupe", "--format", "{p}|{l}"]);
    let output = command.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let (package, licence) = line.split_once('|').unwrap();
            let mut words = package.split(' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v'));
            (format!("{name}@{version}"), licence.to_owned())
        })
        .collect()
}

/// Whether the licences in `allowed` are enough for an SPDX expression. Older packages write `/` for `OR`.
fn permits(allowed: &BTreeSet<String>, expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    let is_permitted = any_of(allowed, &mut words);
    assert!(words.is_empty(), "not an expression: {expression:?}");
    is_permitted
}

fn any_of(allowed: &BTreeSet<String>, words: &mut &[&str]) -> bool {
    let mut is_permitted = all_of(allowed, words);
    while let Some(rest) = words.strip_prefix(&["OR"]) {
        *words = rest;
        is_permitted |= all_of(allowed, words);
    }
    is_permitted
}

fn all_of(allowed: &BTreeSet<String>, words: &mut &[&str]) -> bool {
    let mut is_permitted = licence(allowed, words);
    while let Some(rest) = words.strip_prefix(&["AND"]) {
        *words = rest;
        is_permitted &= licence(allowed, words);
    }
    is_permitted
}

fn licence(allowed: &BTreeSet<String>, words: &mut &[&str]) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    *words = rest;
    if *first == "(" {
        let is_permitted = any_of(allowed, words);
        *words = words.strip_prefix(&[")"]).unwrap_or(words);
        return is_permitted;
    }
    let mut name = (*first).to_owned();
    if let [with @ "WITH", exception, rest @ ..] = *words {
        name = format!("{name} {with} {exception}");
        *words = rest;
    }
    allowed.contains(&name)
}

#[test]
fn expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    for good in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "MIT AND ISC", "(GPL-3.0 OR MIT) AND ISC"] {
        assert!(permits(&allowed, good), "{good}");
    }
    for bad in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT WITH something", "GPL-3.0 OR MIT AND Zlib", "MIT AND (Zlib OR GPL-3.0)"]
    {
        assert!(!permits(&allowed, bad), "{bad}");
    }
}

#[test]
fn licences_are_permitted() {
    let allowed = listed("allow");
    let others: Vec<_> = dependencies().into_iter().filter(|(_, licence)| !permits(&allowed, licence)).collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn dependencies_have_one_version_each() {
    let skipped = listed("skip");
    let found: BTreeSet<_> = dependencies().into_iter().map(|(package, _)| package).collect();
    let outdated: Vec<_> = skipped.difference(&found).collect();
    assert!(outdated.is_empty(), "deny.toml skips what is no longer there: {outdated:?}");
    let names: Vec<_> = found.difference(&skipped).map(|package| package.split('@').next().unwrap()).collect();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn all_packages_come_from_one_registry() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let sources: BTreeSet<_> = lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    assert!(sources.len() == 1 && sources.iter().all(|source| source.starts_with("\"registry+")), "{sources:?}");
}
