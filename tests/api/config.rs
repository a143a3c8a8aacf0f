//! Managers from files and the environment, as programs create them.

use std::process::Command;
use std::time::Duration;

use leasehold::{Config, LockManager};
use serde::Deserialize;
use support::folder::Folder;

/// Run by the test below in a process with its own environment.
#[test]
fn a_program_with_an_environment() {
    let Ok(path) = std::env::var("CONFIG_TEST_FILE") else { return };
    let config = Config::load(path, "locks", "CONFIG_TEST").unwrap();
    assert_eq!((config.ttl, config.timeout), (Duration::from_secs(20), Duration::from_secs(3)));
    assert_eq!(config.store.as_deref(), Some("from-the-environment"));
    let manager = LockManager::from_config(config).wait().unwrap();
    let same_store = LockManager::connect("memory://from-the-environment").wait().unwrap();
    let guard = manager.lock("k").wait().unwrap();
    assert!(same_store.is_locked("k").wait().unwrap());
    assert!(guard.remaining() > Duration::from_secs(15) && guard.remaining() <= Duration::from_secs(20));
    println!("config taken");
}

#[test]
fn the_environment_is_that_of_the_process() {
    let folder = Folder::new();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, "[locks]\nttl = \"10s\"\ntimeout = \"3s\"\n").unwrap();
    let program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "config::a_program_with_an_environment", "--nocapture"])
        .env("CONFIG_TEST_FILE", &path)
        .env("CONFIG_TEST_LOCKS_TTL", "20s")
        .env("CONFIG_TEST_LOCKS_STORE", "from-the-environment")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&program.stdout).into_owned();
    assert!(program.status.success() && said.contains("config taken"), "{said}");
}

#[test]
fn a_config_is_part_of_a_programs_own() {
    #[derive(Deserialize)]
    struct Service {
        locks: Option<Config>,
    }
    let service: Service = serde_json::from_str(r#"{ "locks": { "ttl": "7s", "max_hold": null } }"#).unwrap();
    let config = service.locks.unwrap();
    assert_eq!(config, Config { ttl: Duration::from_secs(7), ..Config::default() });
    let without: Service = serde_json::from_str("{}").unwrap();
    assert!(without.locks.is_none());
}

#[test]
fn the_builder_overrides_the_config_and_checks_it() {
    let config = Config { ttl: Duration::from_secs(7), ..Config::default() };
    let manager = LockManager::builder().config(config.clone()).ttl(Duration::from_secs(5)).build().wait().unwrap();
    assert!(manager.lock("k").wait().unwrap().remaining() <= Duration::from_secs(5));
    for (wrong, word) in [
        (Config { backend: "etdc".into(), ..config.clone() }, "etdc"),
        (Config { ttl: Duration::from_millis(10), ..config.clone() }, "ttl"),
        (Config { name: Some(String::new()), ..config.clone() }, "name"),
        (Config { hand_over_times: 1024, ..config }, "hand"),
    ] {
        let error = LockManager::from_config(wrong).wait().unwrap_err();
        assert!(error.code() == "INVALID_CONFIG" && error.to_string().contains(word), "{error}");
    }
}
