//! The program of the main package.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Returns the path of the command line, which is built first unless it is up to date: cargo builds the programs of a test's own package
/// only.
///
/// # Panics
///
/// If it cannot be built.
pub fn command_line() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // A test is target/debug/deps/name-hash.
        let test = std::env::current_exe().unwrap();
        let folder = |up: usize| test.ancestors().nth(up).unwrap();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).stdin(Stdio::null());
        // Cargo's variables for this test would make build scripts run again.
        let is_of_the_test = |name: &str| ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|start| name.starts_with(start));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_of_the_test)) {
            cargo.env_remove(name);
        }
        // The same packages, features and kinds of targets as in tests/run.sh; otherwise its dependencies would be built again.
        cargo.args(["build", "--quiet", "--package=leasehold", "--package=leasehold-tests", "--all-features"]);
        cargo.args(["--bins", "--examples", "--target-dir"]).arg(folder(3));
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let output = cargo.output().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder(2).join("leasehold")
    })
}
