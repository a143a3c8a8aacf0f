//! Where the figures come from: the machine, the versions, the date and the command.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use crate::options::Options;

const LOCK: &str = include_str!("../../Cargo.lock");
const PYTHON: &str = include_str!("../../tests/interop/requirements.txt");
const CRATES: [&str; 6] = ["tokio", "redis", "etcd-client", "rslock", "async-redis-lock", "distributed-lock-redis"];

/// Lines of Markdown.
pub fn description(options: &Options) -> String {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let separator = if arguments.is_empty() { "" } else { " -- " };
    let command = format!("cargo run --release -p leasehold-benches{separator}{}", arguments.join(" "));
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let crates: Vec<_> = CRATES.iter().map(|name| format!("{name} {}", locked(name))).collect();
    let python = PYTHON.replace("==", " ").trim().replace('\n', ", ");
    format!(
        "Measured on {} by `{command}`: medians of {} rounds. {}, Linux {}; {}; {}. Crates: {}. Python: {python}.\n",
        date.split('T').next().unwrap_or_default(),
        options.rounds,
        processor(),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        redis(),
        etcd(),
        crates.join(", "),
    )
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores", line.trim_start_matches(['\t', ' ', ':']))
}

/// "Redis server v=7.0.15 sha=…", or the like of another program.
fn redis() -> String {
    let program = std::env::var("LEASEHOLD_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let line = first_line(&program);
    let version = line.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or("?").to_owned();
    format!("{} {version}", line.split(' ').next().unwrap_or(&program))
}

/// "etcd Version: 3.4.23".
fn etcd() -> String {
    first_line("etcd").replace(" Version:", "")
}

fn first_line(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The version of a crate in Cargo.lock.
fn locked(name: &str) -> &'static str {
    let start = format!("name = \"{name}\"\nversion = \"");
    let rest = LOCK.split_once(&start).map_or("?", |(_, rest)| rest);
    rest.split('"').next().unwrap_or(rest)
}
