//! The dependencies of the quickstart.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

#[test]
fn the_quickstart_is_built_without_servers_and_test_dependencies() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // As `cargo run --example quickstart` builds it: with default features, and with the dependencies of examples and tests.
    let arguments = ["tree", "--edges=normal,build,dev", "--prefix=none", "--format={p}"];
    let output = Command::new(cargo).args(arguments).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<_> = printed.lines().filter_map(|line| line.split(' ').next()).collect();
    println!("{} crates: {crates:?}", crates.len());
    assert!(crates.contains("leasehold") && crates.contains("tokio"), "{crates:?}");
    for heavy in ["etcd-client", "h2", "proptest", "redis", "smol", "tonic"] {
        assert!(!crates.contains(heavy), "{heavy}, {} crates in all", crates.len());
    }
    assert!(crates.len() <= 60, "{} crates: {crates:?}", crates.len());
}
