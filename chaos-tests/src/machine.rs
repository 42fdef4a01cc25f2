//! What can be done to the machine that the processes run on, and undone.

use std::{
    process::{Child, Command},
    time::{Duration, Instant},
};

use crate::{
    links::Way,
    scene::{Armed, Scene, Undo},
    who::Who,
};

/// Harm to the machine.
#[derive(Debug, Clone, Copy)]
pub enum Machine {
    /// A process gets no more memory than it has: when it needs more it aborts, which a burst of tills brings about.
    OutOfMemory(Who),
    /// A process gets no more descriptors than it has.
    OutOfDescriptors(Who),
    /// So many processes that do nothing but count.
    Busy(usize),
    /// Of a hundred packets on a way so many are lost; the kernel sends them again in its own time.
    PacketsLost(Way, u32),
}

/// Where the kernel is told which packets to lose.
const CHAIN: &str = "chaos-loss";
/// For how long a process may go on with the memory that it has.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(200);

impl Machine {
    /// What this machine lacks for it.
    #[must_use]
    pub fn lacks(&self) -> Option<&'static str> {
        match self {
            Self::PacketsLost(..) => (!works("iptables", &["-nL", "INPUT"])).then_some("iptables, as root"),
            Self::OutOfMemory(_) | Self::OutOfDescriptors(_) => {
                (!works("prlimit", &["--version"])).then_some("prlimit")
            }
            Self::Busy(_) => None,
        }
    }

    pub(crate) async fn arm(&self, scene: &mut Scene<'_>, armed: &mut Armed) {
        match *self {
            Self::OutOfMemory(who) => {
                // One that has been busy before keeps what it had then, and needs no more.
                let process = &mut scene.cluster.node_mut(who).process;
                process.kill();
                process.restart();
                let node = scene.cluster.nodes().nth(who).expect("a process");
                scene.cluster.until_ready(node).await;
                tighten(node.process.id());
            }
            Self::OutOfDescriptors(who) => {
                let pid = scene.cluster.node_mut(who).process.id();
                let used = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
                limit(pid, &format!("--nofile={used}:"));
                armed.before = u64::from(refusals(scene, who));
            }
            Self::Busy(count) => armed.undo.push(busy(count)),
            Self::PacketsLost(way, percent) => {
                let ports: Vec<u16> = scene.cluster.links.on(way).iter().map(|proxy| proxy.port).collect();
                armed.undo.push(lose_packets(&ports, percent));
            }
        }
    }

    /// Ends it; how often it hit something.
    pub(crate) async fn heal(&self, scene: &mut Scene<'_>, armed: &Armed) -> u64 {
        match *self {
            Self::OutOfMemory(who) => {
                let process = &mut scene.cluster.node_mut(who).process;
                let (begun, mut has_aborted) = (Instant::now(), false);
                while !has_aborted && begun.elapsed() < PATIENCE {
                    // What it has given back meanwhile it does not get again.
                    tighten(process.id());
                    has_aborted = process.aborted(LOOK).await;
                }
                if has_aborted {
                    process.restart();
                } else {
                    limit(process.id(), "--data=unlimited:");
                }
                u64::from(has_aborted)
            }
            Self::OutOfDescriptors(who) => {
                let pid = scene.cluster.node_mut(who).process.id();
                limit(pid, &format!("--nofile={}:", most_descriptors(pid)));
                u64::from(refusals(scene, who)) - armed.before
            }
            Self::Busy(count) => count as u64,
            Self::PacketsLost(..) => lost_packets(),
        }
    }
}

fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|done| done.status.success())
}

fn tell(program: &str, arguments: &[&str]) {
    assert!(works(program, arguments), "{program} {arguments:?} failed");
}

fn limit(pid: u32, limit: &str) {
    tell("prlimit", &["--pid", &pid.to_string(), limit]);
}

/// How often a process could not take a connection, or make one.
fn refusals(scene: &mut Scene<'_>, who: Who) -> u32 {
    let name = scene.cluster.node_mut(who).name.clone();
    u32::try_from(scene.cluster.log(&name).matches("Too many open files").count()).unwrap_or(u32::MAX)
}

/// What a process may have again once it is healed.
fn most_descriptors(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let line = text.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    line.split_whitespace().nth(4).expect("a hard limit").to_owned()
}

/// A process gets no more memory than it has now, unless it has just ended.
fn tighten(pid: u32) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap_or_default();
    if let Ok(used) = line.trim().trim_end_matches(" kB").parse::<u64>() {
        works("prlimit", &["--pid", &pid.to_string(), &format!("--data={}:", used * 1024)]);
    }
}

fn busy(count: usize) -> Undo {
    let counts = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
    let mut children: Vec<Child> = (0..count).map(|_| counts()).collect();
    Undo::with(move || {
        for child in &mut children {
            let _ = child.kill();
            let _ = child.wait();
        }
    })
}

/// In a chain of its own, so that all rules go at once.
fn lose_packets(ports: &[u16], percent: u32) -> Undo {
    let jump = ["INPUT", "-i", "lo", "-j", CHAIN];
    let undo = move || {
        // What an earlier run left behind goes as well.
        while works("iptables", &[&["-D"], &jump[..]].concat()) {}
        works("iptables", &["-F", CHAIN]);
        works("iptables", &["-X", CHAIN]);
    };
    undo();
    tell("iptables", &["-N", CHAIN]);
    let undo = Undo::with(undo);
    let probability = format!("0.{percent:02}");
    for port in ports {
        for end in ["--dport", "--sport"] {
            let random = ["-m", "statistic", "--mode", "random", "--probability", &probability, "-j", "DROP"];
            let rule = ["-A", CHAIN, "-p", "tcp", end, &port.to_string()];
            tell("iptables", &[&rule[..], &random[..]].concat());
        }
    }
    tell("iptables", &[&["-I"], &jump[..]].concat());
    undo
}

fn lost_packets() -> u64 {
    let listed = Command::new("iptables").args(["-nvxL", CHAIN]).output().expect("iptables");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let rules = text.lines().filter(|line| line.contains("DROP"));
    rules.filter_map(|rule| rule.split_whitespace().next()?.parse::<u64>().ok()).sum()
}
