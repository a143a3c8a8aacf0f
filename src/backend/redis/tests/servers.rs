//! Servers of any version, and how they may be set.

use super::super::requirements::NEEDED;
use super::*;

/// Starts a server that hides these commands.
fn start_without(commands: &[&str]) -> Server {
    Server::start_with(&commands.iter().flat_map(|command| ["--rename-command", command, ""]).collect::<Vec<_>>())
}

/// All that a manager does on a server.
async fn is_served(server: &Server) {
    let (client, other) = (Client::new(server).await, Client::new(server).await);
    let key = "k".repeat(1024);
    for key in ["k", &key] {
        let grant = client.lock(key).await;
        assert!(client.renew().await.is_ok());
        let (handed, ()) = tokio::join!(other.lock(key), async {
            client.queued(key, 1).await;
            client.release(&grant).await;
        });
        assert!(handed.epoch > grant.epoch && handed.limit.is_some(), "by message");
        assert!(other.renew().await.is_ok());
        other.redis.evict(key, &Evict::default()).await.unwrap();
        assert_eq!(other.event(LIMIT).await, Event::ClaimLost(handed.attempt));
        let readers = (client.share(key).await, other.share(key).await);
        assert!(client.renew().await.is_ok());
        client.release(&readers.0).await;
        other.release(&readers.1).await;
        assert!(!server.run::<bool>(&format!("EXISTS lock:{key}")));
    }
}

#[test]
fn a_command_that_the_server_lacks_is_named_at_connect() {
    run(async {
        for missing in [&["TIME"][..], &["EVALSHA"], &["SUBSCRIBE"], &["GETRANGE", "ZREMRANGEBYRANK"], &["INFO"]] {
            let server = start_without(missing);
            let error = connect(options(server.target(None, 0))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let said = error.to_string();
            let named: Vec<_> = said.split(|c: char| !c.is_ascii_uppercase()).filter(|word| !word.is_empty()).collect();
            assert_eq!(named, missing, "{said}");
        }
    });
}

#[test]
fn a_command_that_a_script_lacks_is_an_error_that_says_so() {
    run(async {
        let server = start_without(&["COMMAND", "TIME"]);
        let client = Client::new(&server).await;
        for wait in [Wait::Never, Wait::UntilGranted] {
            let error = client.redis.acquire(&client.claim("k", Mode::Exclusive), wait).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("lacks a command"), "{error}");
        }
    });
}

#[test]
fn a_server_that_replicates_the_text_of_scripts_is_used() {
    run(async {
        let server = Server::start();
        let is_set = server.try_run::<()>("CONFIG SET lua-replicate-commands no").is_ok();
        assert_eq!(is_set, server.version().0 == 6, "it can be set at run time by Redis 6 only");
        is_served(&server).await;
    });
}

#[test]
fn a_server_that_accepts_short_arguments_only_is_used() {
    run(async {
        let server = Server::start();
        // The least that Redis 6 and later accept.
        server.run::<()>("CONFIG SET proto-max-bulk-len 1048576");
        is_served(&server).await;
    });
}

#[test]
fn the_documented_commands_are_those_that_a_server_must_have() {
    let text = include_str!("../../../../docs/redis.md");
    let row = text.lines().find_map(|line| line.strip_prefix("| Commands |")).unwrap();
    let documented: Vec<_> = row.split('`').skip(1).step_by(2).collect();
    assert_eq!(documented, NEEDED);
}
