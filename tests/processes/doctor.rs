//! `leasehold doctor` as a process: what it prints, and its exit status.

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::etcd::Etcd;
use support::folder::Folder;
use support::program;
use support::redis::Redis;

fn doctor(url: &str, more: &[&str]) -> Output {
    let mut command = Command::new(program::command_line());
    command.env("LEASEHOLD_URL", url).arg("doctor").args(more).stdin(Stdio::null()).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_status_says_whether_something_is_wrong_and_the_last_row_is_the_ttl() {
    let folder = Folder::new();
    let directory = format!("file://{}/locks", folder.path().display());
    for url in [Redis::shared().url(), Etcd::shared().url(), directory, "memory://x".to_owned()] {
        let output = doctor(&url, &[]);
        let lines = lines(&output);
        println!("{}", lines.join("\n"));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(
            lines[0].starts_with("LEVEL  CHECK ") && lines.last().unwrap().starts_with("ok     ttl "),
            "{lines:#?}"
        );
        let json: Value = serde_json::from_slice(&doctor(&url, &["--json"]).stdout).unwrap();
        assert_ne!(json["level"], "wrong");
        assert!(json["findings"].as_array().unwrap().iter().all(|finding| finding["check"].is_string()), "{json}");
    }
    let redis = Redis::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let output = doctor(&redis.url(), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = lines(&output);
    let wrong = lines.iter().position(|line| line.starts_with("wrong  eviction ")).unwrap();
    assert!(
        lines[wrong].ends_with("of 100 MiB used") && lines[wrong + 1].starts_with("       CONFIG SET"),
        "{lines:#?}"
    );
    let json: Value = serde_json::from_slice(&doctor(&redis.url(), &["--json"]).stdout).unwrap();
    assert_eq!(json["level"], "wrong");
    assert_eq!(doctor("redis://host/path", &[]).status.code(), Some(125));
    assert_eq!(doctor(&redis.url(), &["--what"]).status.code(), Some(125));
}
