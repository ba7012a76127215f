//! What breaks in a cluster, with real processes, networks and disks. Every story first proves that its fault took
//! effect.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;

use super::Context;
use super::fleet::{Fleet, Kind, Plan};
use super::follower::Follower;
use super::network::Network;
use crate::process::{eventually, output};

const MESH_TIMEOUT: Duration = Duration::from_secs(30);
/// Routes notice a silent peer within 3 s: the third ping is not sent.
const QUICK_PINGS: &str = "  ping_interval: 1s\n  ping_max: 2\n";
const SILENCE_NOTICED: Duration = Duration::from_secs(6);

/// Servers with a client on each, that hears `all.>` and a subject of its own.
struct Cluster {
    fleet: Fleet,
    clients: Vec<Follower>,
    sent: u64,
}

impl Cluster {
    fn start(context: &Context, plans: Vec<Plan>) -> Result<Cluster> {
        let mut cluster = Cluster { fleet: Fleet::new(&context.programs)?, clients: Vec::new(), sent: 0 };
        for plan in plans {
            cluster.fleet.add(plan)?;
        }
        cluster.fleet.mesh(MESH_TIMEOUT)?;
        for index in 0..cluster.fleet.members.len() {
            let client = cluster.connect(index)?;
            cluster.clients.push(client);
        }
        cluster.fleet.interest(MESH_TIMEOUT)?;
        Ok(cluster)
    }

    fn connect(&self, index: usize) -> Result<Follower> {
        let mut client = Follower::connect(&self.fleet.members[index].client)?;
        client.subscribe("all.>")?;
        client.subscribe(&format!("only.{index}"))?;
        Ok(client)
    }

    /// Kills a server and starts it and its client anew, in their old places.
    fn restart(&mut self, index: usize) -> Result<()> {
        let plan = self.fleet.members[index].plan.clone();
        let mut gone = self.fleet.take(&plan.name)?;
        gone.signal(Signal::KILL)?;
        gone.ended(Duration::from_secs(5))?;
        self.fleet.add(plan)?;
        let new = self.fleet.members.pop().context("no member")?;
        self.fleet.members.insert(index, new);
        self.clients[index] = self.connect(index)?;
        Ok(())
    }

    /// Each of these clients publishes; each of them hears each message exactly once.
    fn exchange(&mut self, among: &[usize]) -> Result<()> {
        for &from in among {
            self.sent += 1;
            let payload = format!("exchange-{}", self.sent);
            self.clients[from].publish("all.x", &payload)?;
            for &to in among {
                let heard = |client: &Follower| {
                    client.arrived().iter().filter(|message| message.payload == payload).count()
                };
                eventually("a message", Duration::from_secs(10), || {
                    ensure!(heard(&self.clients[to]) > 0, "{to} does not hear {from}");
                    Ok(())
                })?;
                std::thread::sleep(Duration::from_millis(5));
                ensure!(heard(&self.clients[to]) == 1, "{to} heard a message of {from} twice");
            }
        }
        Ok(())
    }

    fn others(&self, index: usize) -> BTreeSet<String> {
        let mut addresses = self.fleet.client_addresses();
        addresses.remove(&self.fleet.members[index].client);
        addresses
    }
}

fn trio() -> Vec<Plan> {
    (1..=3).map(|n| Plan::new(&format!("n{n}"), Kind::Ours).with_cluster(QUICK_PINGS)).collect()
}

/// A server is killed without a word.
pub fn kill(context: &mut Context) -> Result<()> {
    let mut cluster = Cluster::start(context, trio())?;
    context.step("kill -9: the others' clients learn the shorter list, its clients move", |_| {
        let expected = cluster.others(2);
        let start = Instant::now();
        cluster.fleet.members[2].signal(Signal::KILL)?;
        cluster.clients[0].learn(&expected, Duration::from_secs(10))?;
        cluster.clients[1].learn(&expected, Duration::from_secs(10))?;
        let learned = start.elapsed();
        let mut dead = cluster.fleet.take("n3")?;
        dead.ended(Duration::from_secs(5))?;
        ensure!(cluster.clients[2].closed_at().is_some(), "its client is still connected: it was not killed");
        cluster.clients[2].relocate(Duration::ZERO)?;
        let moved = start.elapsed();
        cluster.fleet.interest(MESH_TIMEOUT)?;
        cluster.exchange(&[0, 1, 2])?;
        Ok(format!(
            "list right after {} ms, client moved after {} ms",
            learned.as_millis(),
            moved.as_millis()
        ))
    })?;
    context.step("it comes back under its name", |_| {
        cluster.fleet.add(trio().remove(2))?;
        let took = cluster.fleet.mesh(MESH_TIMEOUT)?;
        let all = cluster.fleet.client_addresses();
        cluster.clients.iter().try_for_each(|client| client.learn(&all, Duration::from_secs(10)))?;
        cluster.fleet.interest(MESH_TIMEOUT)?;
        Ok(format!("full mesh after {:.1} s", took.as_secs_f64()))
    })
}

/// A server is stopped and goes on later.
pub fn freeze(context: &mut Context) -> Result<()> {
    let mut cluster = Cluster::start(context, trio())?;
    context.step("SIGSTOP: the others drop it and go on", |_| {
        let expected = cluster.others(2);
        let start = Instant::now();
        cluster.fleet.members[2].signal(Signal::STOP)?;
        let stat = format!("/proc/{}/stat", cluster.fleet.members[2].pid());
        eventually("it is stopped", Duration::from_secs(2), || {
            let stat = std::fs::read_to_string(&stat)?;
            ensure!(stat.contains(") T "), "{stat}");
            Ok(())
        })?;
        let silent = cluster.clients[2].confirm(Duration::from_secs(1));
        ensure!(silent.is_err(), "a frozen server answered");
        cluster.exchange(&[0, 1])?;
        cluster.clients[0].learn(&expected, SILENCE_NOTICED)?;
        cluster.clients[1].learn(&expected, SILENCE_NOTICED)?;
        Ok(format!("dropped after {:.1} s", start.elapsed().as_secs_f64()))
    })?;
    context.step("SIGCONT: it is a member again, interest exact, nothing twice", |_| {
        // published while it was gone: may be lost there, must not come twice
        cluster.clients[0].publish("all.frozen", "while it was frozen")?;
        cluster.fleet.members[2].signal(Signal::CONT)?;
        let took = cluster.fleet.interest(MESH_TIMEOUT)?;
        cluster.exchange(&[0, 1, 2])?;
        let all = cluster.fleet.client_addresses();
        cluster.clients.iter().try_for_each(|client| client.learn(&all, Duration::from_secs(10)))?;
        let twice = cluster.clients[2].arrived().iter().filter(|m| m.subject == "all.frozen").count();
        ensure!(twice <= 1, "a message came {twice} times");
        Ok(format!("interest exact {:.1} s after it went on", took.as_secs_f64()))
    })
}

fn on_machines(network: &Network, pings: &str) -> Vec<Plan> {
    let machines = network.machines().iter().enumerate();
    machines
        .map(|(index, machine)| {
            let mut plan = Plan::new(&format!("n{}", index + 1), Kind::Ours).with_cluster(pings);
            (plan.host, plan.prefix) = (machine.address, machine.prefix());
            plan
        })
        .collect()
}

/// What one server sends to another disappears; the other direction stays open.
pub fn one_way(context: &mut Context) -> Result<()> {
    let network = Network::new(3)?;
    let mut cluster = Cluster::start(context, on_machines(&network, QUICK_PINGS))?;
    let [first, second, third] = network.machines() else { bail!("not 3 machines") };
    context.step("a one-way partition: both sides notice, the third reaches both", |_| {
        let start = Instant::now();
        first.cut_towards(second)?;
        cluster.clients[0].publish("all.lost", "into the cut")?;
        cluster.clients[0].learn(&cluster.others(1), SILENCE_NOTICED)?;
        eventually("the other side notices", SILENCE_NOTICED, || {
            let names = cluster.fleet.members[1].peer_names()?;
            ensure!(!names.contains("n1"), "n2 still has a route with n1");
            Ok(())
        })?;
        let noticed = start.elapsed();
        cluster.exchange(&[0, 2])?;
        cluster.exchange(&[1, 2])?;
        let lost = cluster.clients[1].arrived().iter().filter(|m| m.subject == "all.lost").count();
        let swallowed = first.swallowed()?;
        ensure!(
            lost == 0 && swallowed > 5,
            "{swallowed} packets were swallowed, {lost} messages came through"
        );
        Ok(format!("noticed by both after {:.1} s; {swallowed} packets swallowed", noticed.as_secs_f64()))
    })?;
    let both = |cluster: &mut Cluster| -> Result<String> {
        let took = cluster.fleet.interest(MESH_TIMEOUT)?;
        let all = cluster.fleet.client_addresses();
        cluster.clients.iter().try_for_each(|client| client.learn(&all, Duration::from_secs(10)))?;
        cluster.exchange(&[0, 1, 2])?;
        Ok(format!("interest exact on all sides after {:.1} s", took.as_secs_f64()))
    };
    context.step("it heals", |_| {
        // interest that changed on both sides meanwhile
        cluster.clients[0].subscribe("new.on.1")?;
        cluster.clients[1].subscribe("new.on.2")?;
        first.heal()?;
        both(&mut cluster)
    })?;
    context.step("a server is cut off from both sides, and back", |_| {
        for other in [first, second] {
            third.cut_towards(other)?;
            other.cut_towards(third)?;
        }
        let expected = cluster.others(2);
        cluster.clients[0].learn(&expected, SILENCE_NOTICED)?;
        cluster.clients[1].learn(&expected, SILENCE_NOTICED)?;
        ensure!(third.swallowed()? > 5, "the cut swallowed nothing");
        cluster.clients[2].subscribe("new.on.3")?;
        network.machines().iter().try_for_each(super::network::Machine::heal)?;
        both(&mut cluster)
    })
}

/// One server's link is slow: the others' traffic is not.
pub fn slow_link(context: &mut Context) -> Result<()> {
    let network = Network::new(3)?;
    // an answer to a ping waits behind what is on its way: 3 s would not do
    let mut cluster = Cluster::start(context, on_machines(&network, ""))?;
    context.step("a slow link: others keep their speed, nothing is lost, the mesh stays", |_| {
        let slow = &network.machines()[2];
        slow.slow_down(2000)?;
        let (count, payload) = (1000, "x".repeat(1000));
        let before = [cluster.clients[1].count(), cluster.clients[2].count()];
        let start = Instant::now();
        for _ in 0..count {
            cluster.clients[0].publish("all.load", &payload)?;
        }
        let all = |index: usize, patience: u64| -> Result<Duration> {
            eventually("all messages", Duration::from_secs(patience), || {
                let came = cluster.clients[index].count() - before[index - 1];
                ensure!(came == count, "{came} of {count} came to client {index}");
                Ok(start.elapsed())
            })
        };
        let fast = all(1, 2)?;
        let late = all(2, 60)?;
        ensure!(late > Duration::from_secs(3), "1 MB took {late:?} over 2 Mbit/s: the link was not slow");
        slow.speed_up()?;
        cluster.fleet.check_mesh()?;
        cluster.exchange(&[0, 1, 2])?;
        Ok(format!(
            "1 MB: {:.2} s beside the slow link, {:.1} s over it",
            fast.as_secs_f64(),
            late.as_secs_f64()
        ))
    })
}

/// The disk for the log is full.
pub fn full_disk(context: &mut Context) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().to_owned();
    output(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&disk))?;
    let result = context.step("a full disk for the log: the server serves and joins on", |context| {
        let log = disk.join("server.log");
        let mut plans = trio();
        plans[2].more = format!("log_file: \"{}\"\ndebug: true\n", log.display());
        let mut cluster = Cluster::start(context, plans)?;
        let mut filler = std::fs::File::create(disk.join("filler"))?;
        let refused = std::iter::repeat_with(|| filler.write_all(b"z")).find_map(Result::err);
        let refused = refused.context("the disk takes bytes without end")?;
        ensure!(refused.kind() == std::io::ErrorKind::StorageFull, "{refused}");
        let before = std::fs::metadata(&log)?.len();
        for _ in 0..200 {
            drop(Follower::connect(&cluster.fleet.members[2].client)?);
        }
        let lines = std::fs::read_to_string(&log)?.lines().count();
        let grown = std::fs::metadata(&log)?.len() - before;
        ensure!(lines > 5 && grown < 4096, "{lines} lines, {grown} bytes more: the log is not out of room");
        cluster.exchange(&[0, 1, 2])?;
        cluster.fleet.add(Plan::new("n4", Kind::Ours))?;
        cluster.fleet.mesh(MESH_TIMEOUT)?;
        cluster.fleet.interest(MESH_TIMEOUT)?;
        Ok("a write to the disk fails, all three servers exchange messages, a fourth joins".to_owned())
    });
    let _ = output(Command::new("umount").arg("-l").arg(folder.path()));
    result
}

/// Somebody sets a machine's clock an hour forward, then two hours back.
pub fn clock_jump(context: &mut Context) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let library = folder.path().join("clock.so");
    let source = crate::process::project_root().join("e2e/src/cluster/clock.c");
    output(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source))?;
    let offset = folder.path().join("offset");
    std::fs::write(&offset, "0")?;
    let mut plans = trio();
    plans[2].environment = vec![
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        ("CLOCK_OFFSET_FILE".to_owned(), offset.display().to_string()),
    ];
    plans[2].more = "debug: true\n".to_owned();
    let mut cluster = Cluster::start(context, plans)?;
    for (name, seconds) in [("an hour forward", 3600i64), ("two hours back", -3600)] {
        context.step(&format!("the clock jumps {name}: no route ends, timers run on"), |_| {
            let routes = |cluster: &Cluster| -> Result<BTreeSet<u64>> {
                let page = cluster.fleet.members[2].page("routez")?;
                let routes = page["routes"].as_array().context("no routes")?.clone();
                Ok(routes.iter().filter_map(|route| route["rid"].as_u64()).collect())
            };
            let before = routes(&cluster)?;
            std::fs::write(&offset, seconds.to_string())?;
            drop(Follower::connect(&cluster.fleet.members[2].client)?);
            let shown = jiff::Timestamp::now().as_second() + seconds;
            eventually("the log shows the other time", Duration::from_secs(5), || {
                let log = cluster.fleet.members[2].log(cluster.fleet.folder());
                let times = [0, 1, 2, 3, 4, 5].map(|ago| {
                    let time = jiff::Timestamp::from_second(shown - ago + 2).unwrap_or_default();
                    time.strftime("%Y/%m/%d %H:%M:%S").to_string()
                });
                ensure!(times.iter().any(|time| log.contains(time)), "no line of {}", times[0]);
                Ok(())
            })?;
            // longer than all pings together
            std::thread::sleep(Duration::from_secs(4));
            ensure!(routes(&cluster)? == before, "routes were opened anew");
            cluster.exchange(&[0, 1, 2])?;
            // its timers still run: a silent peer is noticed as quickly as ever
            cluster.fleet.members[0].signal(Signal::STOP)?;
            let start = Instant::now();
            let noticed = eventually("it notices a silent peer", SILENCE_NOTICED, || {
                ensure!(!cluster.fleet.members[2].peer_names()?.contains("n1"), "n1 is still a peer");
                Ok(start.elapsed())
            });
            cluster.fleet.members[0].signal(Signal::CONT)?;
            let noticed = noticed?;
            cluster.fleet.mesh(MESH_TIMEOUT)?;
            cluster.restart(1)?;
            let took = cluster.fleet.mesh(Duration::from_secs(10))?;
            cluster.fleet.interest(MESH_TIMEOUT)?;
            Ok(format!(
                "a silent peer noticed after {:.1} s, full mesh {:.1} s after a restart",
                noticed.as_secs_f64(),
                took.as_secs_f64()
            ))
        })?;
    }
    Ok(())
}

/// Peers on the route port that are none: one sends garbage, one takes everything in and never reads.
pub fn bad_peer(context: &mut Context) -> Result<()> {
    let mut plans = trio();
    plans[0].more = "write_deadline: \"2s\"\n".to_owned();
    // its pings shall not be what ends the peer that never reads
    plans[0].cluster.clear();
    let mut cluster = Cluster::start(context, plans)?;
    context.step("garbage on the route port is hung up on, nobody else notices", |_| {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut hung_up = 0;
        for round in 0..200 {
            let mut stream = TcpStream::connect(&cluster.fleet.members[0].route)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            if round % 2 == 1 {
                // past the first gate, then garbage
                stream.write_all(b"CONNECT {\"name\":\"NGARBAGE\",\"cluster\":\"e2e\"}\r\n")?;
            }
            let garbage: Vec<u8> = (0..4096)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed as u8
                })
                .collect();
            let _ = stream.write_all(&garbage);
            let mut answer = Vec::new();
            // an end or a reset: both are a closed connection
            if !matches!(stream.read_to_end(&mut answer), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
                hung_up += 1;
            }
        }
        ensure!(hung_up == 200, "{hung_up} of 200 connections were closed");
        cluster.fleet.check_mesh()?;
        cluster.exchange(&[0, 1, 2])?;
        Ok("200 connections, half of them after a CONNECT".to_owned())
    })?;
    context.step("a peer that never reads is cut off; memory stays bounded, the others get everything", |_| {
        let mut deaf = TcpStream::connect(&cluster.fleet.members[0].route)?;
        let hello = "CONNECT {\"name\":\"NDEAF\",\"cluster\":\"e2e\",\"echo\":true,\"headers\":true,\"lnoc\":true}\r\n\
                     INFO {\"server_id\":\"NDEAF\",\"server_name\":\"deaf\",\"proto\":1,\"host\":\"127.0.0.1\",\
                     \"port\":1,\"headers\":true,\"max_payload\":1048576,\"cluster\":\"e2e\",\"gossip_mode\":1}\r\n\
                     RS+ $G all.>\r\n";
        deaf.write_all(hello.as_bytes())?;
        eventually("the deaf peer is a member", Duration::from_secs(5), || {
            let peers = cluster.fleet.members[0].peers()?;
            let told = peers.get("deaf").context("it is no peer")?;
            ensure!(told.contains("all.>"), "its interest is not there");
            Ok(())
        })?;
        let payload = "x".repeat(10_000);
        let (count, before) = (20_000, cluster.clients[1].count());
        let (mut most, start) = (0, Instant::now());
        let mut publisher = Follower::connect(&cluster.fleet.members[0].client)?;
        for number in 0..count {
            publisher.publish("all.load", &payload)?;
            if number % 200 == 0 {
                // at the pace of the readers here, which are slow ones
                publisher.confirm(Duration::from_secs(60))?;
                most = most.max(cluster.fleet.members[0].resident_bytes()?);
            }
        }
        publisher.confirm(Duration::from_secs(60))?;
        let took = start.elapsed();
        eventually("all messages at the others", Duration::from_secs(30), || {
            let came = cluster.clients[1].count() - before;
            ensure!(came == count, "{came} of {count} came");
            Ok(())
        })?;
        eventually("the deaf peer is cut off", Duration::from_secs(15), || {
            let slow = cluster.fleet.members[0].page("varz")?["slow_consumer_stats"]["routes"].as_u64();
            ensure!(slow == Some(1), "slow consumers among routes: {slow:?}");
            let names = cluster.fleet.members[0].peer_names()?;
            ensure!(!names.contains("deaf"), "it is still a peer");
            Ok(())
        })?;
        ensure!(most < 200 << 20, "the server grew to {most} bytes");
        Ok(format!(
            "200 MB published in {:.1} s; the server never had more than {} MB",
            took.as_secs_f64(),
            most >> 20
        ))
    })
}
