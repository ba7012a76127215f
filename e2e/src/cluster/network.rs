//! A network of namespaces: a bridge, and behind each of its ports a machine with an address of its own.
//!
//! Owns the namespaces, the cuts and the slow links. All of it lives in the network namespace of this process and
//! ends with it.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::{Running, eventually, output};

/// Machines on one bridge.
pub struct Network {
    machines: Vec<Machine>,
}

/// A network namespace with one link to the bridge.
pub struct Machine {
    /// Its address.
    pub address: Ipv4Addr,
    holder: Running,
    port: String,
}

fn ip(arguments: &str) -> Result<()> {
    output(Command::new("ip").args(arguments.split(' '))).map(|_| ())
}

impl Network {
    /// A bridge and so many machines.
    pub fn new(machines: u8) -> Result<Network> {
        ip("link add starling type bridge")?;
        ip("addr add 10.99.0.254/24 dev starling")?;
        ip("link set starling up")?;
        let mut network = Network { machines: Vec::new() };
        for number in 1..=machines {
            network.machines.push(Machine::new(number)?);
        }
        Ok(network)
    }

    /// The machines, in the order of their addresses.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // With its holder's end a namespace goes, and its cable with it, but when is up to the kernel: the next network's
        // cables have the same names.
        for machine in self.machines.drain(..) {
            let _ = ip(&format!("link del {}", machine.port));
        }
        let _ = ip("link del starling");
    }
}

impl Machine {
    fn new(number: u8) -> Result<Machine> {
        let holder = Running::start(Command::new("unshare").args(["--net", "sleep", "infinity"]))?;
        let pid = holder.pid();
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        eventually("a namespace of its own", Duration::from_secs(5), || {
            ensure!(std::fs::read_link(format!("/proc/{pid}/ns/net"))? != ours, "still in ours");
            Ok(())
        })?;
        let (address, port) = (Ipv4Addr::new(10, 99, 0, number), format!("port{number}"));
        ip(&format!("link add {port} type veth peer name eth0 netns {pid}"))?;
        ip(&format!("link set {port} master starling up"))?;
        let machine = Machine { address, holder, port };
        machine.run(&format!("ip addr add {address}/24 dev eth0"))?;
        machine.run("ip link set eth0 up")?;
        machine.run("ip link set lo up")?;
        Ok(machine)
    }

    /// What stands before a command line to run it on this machine.
    pub fn prefix(&self) -> Vec<String> {
        ["nsenter", "-t", &self.holder.pid().to_string(), "-n"].map(str::to_owned).to_vec()
    }

    fn run(&self, line: &str) -> Result<String> {
        let prefix = self.prefix();
        output(Command::new(&prefix[0]).args(&prefix[1..]).args(line.split(' ')))
    }

    /// From now on nothing that this machine sends reaches `other`; the other direction stays open.
    pub fn cut_towards(&self, other: &Machine) -> Result<()> {
        self.run(&format!("iptables -w -A OUTPUT -d {} -j DROP", other.address)).map(|_| ())
    }

    /// Ends all cuts of what this machine sends.
    pub fn heal(&self) -> Result<()> {
        self.run("iptables -w -F OUTPUT").map(|_| ())
    }

    /// Packets that a cut swallowed.
    pub fn swallowed(&self) -> Result<u64> {
        let listed = self.run("iptables -w -nvxL OUTPUT")?;
        let lines = listed.lines().filter(|line| line.contains("DROP"));
        lines
            .map(|line| line.split_whitespace().next().unwrap_or("0").parse::<u64>().context("no counter"))
            .sum()
    }

    /// Lets no more than `kilobits` a second pass, in each direction.
    pub fn slow_down(&self, kilobits: u32) -> Result<()> {
        let shape = format!("root tbf rate {kilobits}kbit burst 16kb latency 300ms");
        self.run(&format!("tc qdisc add dev eth0 {shape}"))?;
        output(Command::new("tc").args(format!("qdisc add dev {} {shape}", self.port).split(' ')))?;
        Ok(())
    }

    /// Full speed again.
    pub fn speed_up(&self) -> Result<()> {
        self.run("tc qdisc del dev eth0 root")?;
        output(Command::new("tc").args(["qdisc", "del", "dev", &self.port, "root"])).map(|_| ())
    }
}
