//! The recipes of docs/jobs.md, which run here as they are written there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasehold::{FencingToken, LockManager};
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use support::folder::Folder;
use support::{PATIENCE, eventually, program};
use tokio::time::sleep;
use tokio_cron_scheduler::{Job, JobScheduler};

const CHAPTER: &str = include_str!("../../docs/jobs.md");

/// The code blocks of the chapter in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let blocks = CHAPTER.split("\n```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    blocks.filter(|(first, _)| first.split(',').next() == Some(language)).map(|(_, text)| text).collect()
}

/// The lines without what is before them in each.
fn flat(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_recipes_of_the_chapter_are_those_of_this_file() {
    let here = flat(include_str!("jobs.rs"));
    let recipes = blocks("rust");
    assert_eq!(recipes.len(), 2);
    for recipe in recipes {
        let lines = flat(recipe);
        assert!(lines.len() <= 10, "{} lines", lines.len());
        assert!(here.windows(lines.len()).any(|window| window == lines), "not run here:\n{recipe}");
    }
}

type Anything = Box<dyn std::error::Error + Send + Sync>;

/// By how much the clocks of machines may differ. The schedulers of this test look at theirs each half a second.
const CLOCK_SKEW: Duration = Duration::from_millis(2500);

static INSIDE: AtomicUsize = AtomicUsize::new(0);
static REPORTS: AtomicUsize = AtomicUsize::new(0);

async fn report(_token: FencingToken) {
    assert_eq!(INSIDE.fetch_add(1, Ordering::SeqCst), 0, "two reports at the same time");
    sleep(Duration::from_millis(50)).await;
    INSIDE.fetch_sub(1, Ordering::SeqCst);
    REPORTS.fetch_add(1, Ordering::SeqCst);
}

/// An instance of a service with a nightly report.
async fn schedule(scheduler: &JobScheduler, manager: LockManager, nightly: &str) -> Result<(), Anything> {
    let job = Job::new_async(nightly, move |_, _| {
        let manager = manager.clone();
        Box::pin(async move {
            let tonight = manager.try_with_lock("jobs/report", async |lock| {
                tokio::join!(report(lock.token()), sleep(CLOCK_SKEW));
            });
            let made = tonight.await; // Ok(None): another instance makes it
            log::info!("tonight's report: {made:?}");
        })
    })?;
    scheduler.add(job).await?;
    Ok(())
}

#[tokio::test]
async fn one_of_several_schedulers_runs_the_job() {
    let start = Instant::now();
    let mut schedulers = Vec::new();
    for instance in 0..3 {
        let manager = LockManager::builder().url("memory://jobs").name(format!("instance-{instance}")).build();
        let scheduler = JobScheduler::new().await.unwrap();
        schedule(&scheduler, manager.await.unwrap(), "*/3 * * * * *").await.unwrap();
        scheduler.start().await.unwrap();
        schedulers.push(scheduler);
    }
    while REPORTS.load(Ordering::SeqCst) < 2 {
        assert!(start.elapsed() < PATIENCE, "no reports");
        sleep(Duration::from_millis(50)).await;
    }
    let (reports, nights) = (REPORTS.load(Ordering::SeqCst) as u64, start.elapsed().as_secs() / 3 + 1);
    assert!(reports <= nights, "{reports} reports in {nights} nights");
    for mut scheduler in schedulers {
        scheduler.shutdown().await.unwrap();
    }
}

/// An instance of a service that migrates its database when it starts.
async fn migrate(manager: &LockManager, pool: &SqlitePool, migrations: &Path) -> Result<(), Anything> {
    let migrator = Migrator::new(migrations).await?; // or sqlx::migrate!()
    let run = manager.with_lock("migrations/shop", async |_| migrator.run(pool).await);
    run.await??; // the lock's errors, then those of sqlx
    Ok(())
}

#[tokio::test]
async fn instances_that_start_at_the_same_time_migrate_once() {
    let folder = Folder::new();
    fs::write(folder.path().join("1_stock.sql"), "CREATE TABLE stock (item TEXT PRIMARY KEY, pieces INTEGER);")
        .unwrap();
    fs::write(folder.path().join("2_fill.sql"), "INSERT INTO stock VALUES ('apples', 100);").unwrap();
    // In a file: a connection that is opened while another one migrates waits for it.
    let database = format!("sqlite://{}/shop?mode=rwc", folder.path().display());
    let open = || {
        let database = database.clone();
        async move { SqlitePoolOptions::new().max_connections(1).connect(&database).await }
    };
    let pool = open().await.unwrap();
    let instances = (0..4).map(|_| {
        let (pool, folder) = (open(), folder.path().to_owned());
        tokio::spawn(async move {
            let manager = LockManager::connect("memory://migrations").await.unwrap();
            migrate(&manager, &pool.await.unwrap(), &folder).await
        })
    });
    for instance in instances.collect::<Vec<_>>() {
        instance.await.unwrap().unwrap();
    }
    let count = async |query: &'static str| -> i64 { sqlx::query_scalar(query).fetch_one(&pool).await.unwrap() };
    assert_eq!(count("SELECT COUNT(*) FROM _sqlx_migrations").await, 2);
    assert_eq!(count("SELECT COUNT(*) FROM stock").await, 1);
}

/// The command of the chapter's crontab.
fn crontab() -> String {
    let table = blocks("crontab");
    let line = table[0].lines().find(|line| line.starts_with("0 3 * * * ")).unwrap();
    line.trim_start_matches("0 3 * * * ").to_owned()
}

/// Runs a command as cron does, on one of many machines.
fn machine(folder: &Path, command: &str) -> Child {
    let path = program::command_line().parent().unwrap().display();
    let path = format!("{path}:{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let url = format!("file://{}/locks", folder.display());
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).env("PATH", path).env("LEASEHOLD_URL", url);
    shell.stdin(Stdio::null()).spawn().unwrap()
}

#[test]
fn one_of_many_machines_runs_the_line_of_the_crontab() {
    let folder = Folder::new();
    let (report, reports) = (folder.path().join("report"), folder.path().join("reports"));
    fs::write(&report, "#!/bin/sh\necho $LEASEHOLD_TOKEN >> reports\nuntil [ -e end ]; do sleep 0.05; done\n").unwrap();
    fs::set_permissions(&report, fs::Permissions::from_mode(0o755)).unwrap();
    // The minute of the recipe is for clocks that differ.
    let command = crontab().replace("--at-least 1m", "--at-least 1ms");
    assert_ne!(command, crontab());
    let mut first = machine(folder.path(), &command);
    eventually("the report begins", || reports.exists().then_some(()));
    let mut second = machine(folder.path(), &command);
    assert_eq!(second.wait().unwrap().code(), Some(0), "no failure, of which cron would send mail");
    fs::write(folder.path().join("end"), "").unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_to_string(reports).unwrap().lines().count(), 1);
}
