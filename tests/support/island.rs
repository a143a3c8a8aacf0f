//! A part of the network that can be cut off from the rest: a network namespace with one cable.

use std::net::Ipv4Addr;
use std::process::Command;

use super::eventually;
use super::process::Process;

/// A network namespace. It ends when this is dropped.
#[derive(Debug)]
pub struct Island {
    process: Process,
    /// The end of the cable outside.
    cable: String,
    inside: Ipv4Addr,
    outside: Ipv4Addr,
}

impl Island {
    /// Creates one; `None` where this process is not permitted to.
    pub fn new() -> Option<Self> {
        let mut process = Process::spawn("unshare", |command| {
            command.args(["--net", "sleep", "infinity"]);
        });
        let (pid, namespace) = (process.id(), |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok());
        let is_separate = eventually("the namespace", || match namespace(&pid.to_string()) {
            _ if process.ended().is_some() => Some(false),
            Some(found) if Some(&found) != namespace("self").as_ref() => Some(true),
            _ => None,
        });
        let [a, b, c] = rand::random::<[u8; 3]>();
        // A network of four addresses.
        let at = |host| Ipv4Addr::new(10, a, b, (c & 0xfc) | host);
        let island = Self { process, cable: format!("lh{a:02x}{b:02x}{c:02x}"), inside: at(2), outside: at(1) };
        is_separate.then(|| island.connect()).flatten()
    }

    fn connect(self) -> Option<Self> {
        let (pid, cable) = (self.process.id().to_string(), &*self.cable);
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let ip = |words: &[&str]| run(Command::new("ip").args(words));
        let inside = |words: &[&str]| run(Command::new("nsenter").args(self.within()).arg("ip").args(words));
        let is_done = ip(&["link", "add", cable, "type", "veth", "peer", "name", "cable", "netns", &pid])
            && ip(&["addr", "add", &format!("{}/30", self.outside), "dev", cable])
            && ip(&["link", "set", cable, "up"])
            && inside(&["addr", "add", &format!("{}/30", self.inside), "dev", "cable"])
            && inside(&["link", "set", "lo", "up"])
            && inside(&["link", "set", "cable", "up"]);
        is_done.then_some(self)
    }

    /// Creates islands that reach each other across this machine; none where this process is not permitted to.
    pub fn several(count: usize) -> Vec<Self> {
        let islands: Option<Vec<_>> = (0..count).map(|_| Self::new().filter(Self::open)).collect();
        islands.unwrap_or_default()
    }

    /// Lets it reach what this machine reaches. Returns whether that is permitted.
    fn open(&self) -> bool {
        let forwarding = format!("/proc/sys/net/ipv4/conf/{}/forwarding", self.cable);
        let mut nsenter = Command::new("nsenter");
        nsenter.args(self.within()).args(["ip", "route", "add", "default", "via", &self.outside.to_string()]);
        std::fs::write(forwarding, "1").is_ok() && nsenter.output().is_ok_and(|output| output.status.success())
    }

    /// The arguments of nsenter with which a program runs inside.
    pub fn within(&self) -> Vec<String> {
        ["--target", &self.process.id().to_string(), "--net", "--"].map(str::to_owned).to_vec()
    }

    /// Its address.
    pub fn inside(&self) -> Ipv4Addr {
        self.inside
    }

    /// The address of the rest, as seen from inside.
    pub fn outside(&self) -> Ipv4Addr {
        self.outside
    }

    /// Cuts the cable, silently, or joins it again.
    pub fn cut(&self, is_cut: bool) {
        let state = if is_cut { "down" } else { "up" };
        let status = Command::new("ip").args(["link", "set", &self.cable, state]).status();
        assert!(status.unwrap().success());
    }
}
