//! What `leasehold doctor` finds about directories.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use leasehold::doctor::{Level, examine};
use support::folder::Folder;

/// The findings that something is wrong, each as check, text and advice.
fn wrong(directory: &Path) -> Vec<String> {
    let report = examine(format!("file://{}", directory.display())).wait().unwrap();
    println!("{:#?}", report.findings);
    assert_eq!((report.findings.last().unwrap().check, report.minimum_ttl), ("ttl", None));
    let wrong = report.findings.into_iter().filter(|finding| finding.level == Level::Wrong);
    wrong.map(|finding| format!("{} {} {}", finding.check, finding.found, finding.advice.unwrap_or_default())).collect()
}

fn assert_found(findings: &[String], check: &str, text: &str) {
    let is_it = |finding: &String| finding.starts_with(check) && finding.contains(text);
    assert!(findings.iter().any(is_it), "{check} {text:?}: {findings:#?}");
}

#[test]
fn a_sound_directory_is_found_sound_and_no_lock_is_left_there() {
    let folder = Folder::new();
    let new = folder.path().join("a/new");
    assert!(wrong(&new).is_empty());
    assert!(wrong(&new).is_empty(), "and again, where it exists");
    let left: Vec<_> = std::fs::read_dir(new.join("l")).unwrap().collect();
    assert!(left.is_empty(), "leases: {left:?}");
}

#[test]
fn directories_that_cannot_be_used_are_found() {
    let folder = Folder::new();
    set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let found = wrong(folder.path());
    assert_found(&found, "directory", "chmod 0700");
    assert_found(&found, "locks", "writable for all");
    let found = wrong(Path::new("/proc/sys"));
    assert_found(&found, "file system", "Choose a directory on one of ext,");
    assert_found(&found, "locks", "file system of type");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_found(&wrong(&file), "directory", "no directory");
    assert_found(&wrong(&file.join("below")), "directory", "Not a directory");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/tmp", &link).unwrap();
    assert_found(&wrong(&link), "directory", "symbolic link");
}
