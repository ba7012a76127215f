//! How a cluster grows and shrinks, and what its size costs.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::curve::{Fit, Law, Series, plot};
use rustix::process::Signal;

use super::Context;
use super::fleet::{Fleet, Kind, Plan};
use super::follower::Follower;
use super::load::Load;
use crate::process::{eventually, output};

/// Drains quickly once nobody is connected.
const DRAIN: &str = "lame_duck_grace_period: 1s\nlame_duck_duration: 30s\n";
const MESH_TIMEOUT: Duration = Duration::from_secs(180);

/// 3 servers, many, 3 again, under a light load; every connected client's list is right at each end.
pub fn elastic(context: &mut Context) -> Result<()> {
    let most = if context.short { 20 } else { 60 };
    let mut fleet = Fleet::new(&context.programs)?;
    let (mut load, mut watchers) = (None, Vec::new());
    context.step("3 servers under a light load", |_| {
        for number in 1..=3 {
            fleet.add(Plan::new(&format!("n{number}"), Kind::Ours).with(DRAIN))?;
        }
        fleet.mesh(MESH_TIMEOUT)?;
        let servers: Vec<String> = fleet.members.iter().map(|member| member.client.clone()).collect();
        load = Some(Load::start(&servers, 200)?);
        for server in servers.iter().cycle().take(30) {
            watchers.push(Follower::connect(server)?);
        }
        Ok("3 publishers, 6 subscribers, 30 clients that watch".to_owned())
    })?;
    context.step(&format!("3 to {most} servers"), |_| {
        let start = Instant::now();
        for number in 4..=most {
            fleet.start(Plan::new(&format!("n{number}"), Kind::Ours).with(DRAIN))?;
        }
        (3..most).try_for_each(|index| fleet.ready(index))?;
        let started = start.elapsed();
        fleet.mesh(MESH_TIMEOUT)?;
        let meshed = start.elapsed();
        let all = fleet.client_addresses();
        watchers.iter().try_for_each(|watcher| watcher.learn(&all, Duration::from_secs(30)))?;
        let learned = watchers.iter().filter_map(Follower::changed_at).max().context("nobody learned")?;
        let memory: u64 = fleet.members.iter().map(|member| member.resident_bytes().unwrap_or(0)).sum();
        for watcher in &mut watchers {
            watcher.confirm(Duration::from_secs(10))?;
        }
        Ok(format!(
            "started in {:.1} s, full mesh after {:.1} s, the last of 30 lists right after {:.1} s, {} MB in all",
            started.as_secs_f64(),
            meshed.as_secs_f64(),
            learned.duration_since(start).as_secs_f64(),
            memory >> 20
        ))
    })?;
    context.step(&format!("{most} to 3 servers"), |_| {
        let start = Instant::now();
        let mut leaving = fleet.members.split_off(3);
        leaving.iter().try_for_each(|member| member.signal(Signal::USR2))?;
        let few = fleet.client_addresses();
        watchers.iter().try_for_each(|watcher| watcher.learn(&few, Duration::from_secs(60)))?;
        let learned = watchers.iter().filter_map(Follower::changed_at).max().context("nobody learned")?;
        leaving.iter_mut().try_for_each(|member| member.ended(Duration::from_secs(60)))?;
        let ended = start.elapsed();
        fleet.mesh(Duration::from_secs(30))?;
        ensure!(
            watchers.iter().all(|watcher| watcher.closed_at().is_none()),
            "a client that stayed was cut off"
        );
        Ok(format!(
            "lists right after {:.1} s, all ended after {:.1} s",
            learned.duration_since(start).as_secs_f64(),
            ended.as_secs_f64()
        ))
    })?;
    context.step("interest is exact, and the load lost nothing", |_| {
        fleet.interest(Duration::from_secs(30))?;
        let verdict = load.context("no load")?.finish()?;
        Ok(format!("{} published, {} delivered, 0 lost", verdict.published, verdict.delivered))
    })
}

/// What a mesh of one size cost.
struct Point {
    servers: usize,
    mesh: Duration,
    memory_each: f64,
    formation_bytes: f64,
    processor: Duration,
    idle_bytes_second: f64,
}

/// Full meshes of rising size, with fits and, from them, the cost of 1,000 servers.
pub fn scale(context: &mut Context) -> Result<()> {
    let mut points = Vec::new();
    for servers in context.sizes.clone() {
        let mut point = None;
        context.step(&format!("a full mesh of {servers} servers, all started at once"), |context| {
            let measured = measure(context, servers)?;
            let note = format!(
                "full mesh {:.1} s after the first start; {:.1} MB a server; {:.2} MB on the wire; {:.1} s of processor; \
                 idle {:.1} kB/s",
                measured.mesh.as_secs_f64(),
                measured.memory_each / 1e6,
                measured.formation_bytes / 1e6,
                measured.processor.as_secs_f64(),
                measured.idle_bytes_second / 1e3
            );
            point = Some(measured);
            Ok(note)
        })?;
        points.extend(point);
    }
    context.step("the fitted curves, and 1,000 servers", |context| report(context, &points))
}

fn measure(context: &Context, servers: usize) -> Result<Point> {
    let mut fleet = Fleet::new(&context.programs)?;
    let counter = Counter::new()?;
    let start = Instant::now();
    for number in 1..=servers {
        fleet.start(Plan::new(&format!("n{number}"), Kind::Ours))?;
    }
    // cheap looks first: the pages that prove it are megabytes
    let pool = 4 * (servers as u64 - 1);
    for index in 0..servers {
        fleet.ready(index)?;
        let member = &fleet.members[index];
        eventually("all routes", MESH_TIMEOUT, || {
            let routes = member.page("varz")?["routes"].as_u64().unwrap_or(0);
            ensure!(routes >= pool, "{} has {routes} of {pool} routes", member.name());
            Ok(())
        })?;
    }
    let mesh = start.elapsed();
    fleet.mesh(MESH_TIMEOUT)?;
    std::thread::sleep(Duration::from_secs(2));
    let formation_bytes = counter.bytes()? as f64;
    let (mut memory, mut processor) = (0, Duration::ZERO);
    for member in &fleet.members {
        memory += member.resident_bytes()?;
        processor += member.processor_time()?;
    }
    // one ping a route in each direction
    let (before, idle) = (counter.bytes()?, Duration::from_secs(30));
    std::thread::sleep(idle);
    let idle_bytes_second = (counter.bytes()? - before) as f64 / idle.as_secs_f64();
    let memory_each = memory as f64 / servers as f64;
    Ok(Point { servers, mesh, memory_each, formation_bytes, processor, idle_bytes_second })
}

/// Counts what crosses loopback between servers: IP packets with their headers, monitors apart.
struct Counter;

impl Counter {
    fn new() -> Result<Counter> {
        output(Command::new("iptables").args(["-w", "-F", "OUTPUT"]))?;
        output(Command::new("iptables").args([
            "-w",
            "-A",
            "OUTPUT",
            "-s",
            "127.0.0.1",
            "-d",
            "127.0.0.1",
            "-j",
            "ACCEPT",
        ]))?;
        Ok(Counter)
    }

    fn bytes(&self) -> Result<u64> {
        let listed = output(Command::new("iptables").args(["-w", "-nvxL", "OUTPUT"]))?;
        let line = listed.lines().find(|line| line.contains("127.0.0.1")).context("no counter")?;
        Ok(line.split_whitespace().nth(1).context("no bytes")?.parse()?)
    }
}

fn report(context: &Context, points: &[Point]) -> Result<String> {
    let series = |name: &str, unit: &str, law: Law, of: &dyn Fn(&Point) -> f64| -> Series {
        let points = points.iter().map(|point| (point.servers as f64, of(point))).collect();
        Series { name: name.to_owned(), unit: unit.to_owned(), law, points }
    };
    let all = [
        series("time to the full mesh", "s", Law::Power, &|point| point.mesh.as_secs_f64()),
        series("memory of one server", "MB", Law::Line, &|point| point.memory_each / 1e6),
        series("bytes until the mesh stands", "MB", Law::Power, &|point| point.formation_bytes / 1e6),
        series("processor time until then", "s", Law::Power, &|point| point.processor.as_secs_f64()),
        series("idle traffic", "kB/s", Law::Power, &|point| point.idle_bytes_second / 1e3),
    ];
    let mut text = String::from("| servers |");
    let mut note = String::new();
    for one in &all {
        let _ = write!(text, " {}, {} |", one.name, one.unit);
    }
    text.push_str(&format!("\n|{}\n", "---:|".repeat(all.len() + 1)));
    for (index, point) in points.iter().enumerate() {
        let _ = write!(text, "| {} |", point.servers);
        for one in &all {
            let _ = write!(text, " {:.2} |", one.points[index].1);
        }
        text.push('\n');
    }
    text.push_str("| fit |");
    let mut at_thousand = String::from("| 1,000 (extrapolated) |");
    for one in &all {
        let fit = Fit::of(one.law, &one.points).context("too few sizes for a fit: name at least 2")?;
        let _ = write!(text, " {} |", fit.formula());
        let _ = write!(at_thousand, " {:.0} |", fit.at(1000.0));
        let _ = write!(note, "{} {:.0} {}; ", one.name, fit.at(1000.0), one.unit);
    }
    let _ = writeln!(text, "\n{at_thousand}");
    println!("{text}");
    if let Some(folder) = &context.out {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("scale.md"), &text)?;
        std::fs::write(folder.join("scale.svg"), plot(&all)?)?;
    }
    Ok(format!("1,000 servers: {}", note.trim_end_matches("; ")))
}

/// 100,000 subscriptions on one server reach one that joins.
pub fn subscriptions(context: &mut Context) -> Result<()> {
    let count: u64 = 100_000;
    let kinds: &[Kind] =
        if context.programs.reference.is_some() { &[Kind::Ours, Kind::Theirs] } else { &[Kind::Ours] };
    for kind in kinds {
        context.step(&format!("{count} subscriptions reach a server that joins ({kind:?})"), |context| {
            let mut fleet = Fleet::new(&context.programs)?;
            fleet.add(Plan::new("full", *kind))?;
            let mut follower = Follower::connect(&fleet.members[0].client)?;
            let mut bytes = String::new();
            for number in 0..count {
                let _ = write!(bytes, "SUB region.{}.device.{number}.state {number}\r\n", number % 100);
            }
            follower.say(bytes.as_bytes())?;
            follower.confirm(Duration::from_secs(60))?;
            let start = Instant::now();
            fleet.add(Plan::new("joins", *kind))?;
            let empty = fleet.members[1].resident_bytes()?;
            let told = || -> Result<u64> {
                let routez = fleet.members[1].page("routez")?;
                let routes = routez["routes"].as_array().context("no routes")?.clone();
                Ok(routes.iter().filter_map(|route| route["subscriptions"].as_u64()).sum())
            };
            eventually("all subscriptions", Duration::from_secs(60), || {
                let told = told()?;
                ensure!(told >= count, "{told} of {count}");
                Ok(())
            })?;
            let took = start.elapsed();
            let full = fleet.members[1].resident_bytes()?;
            let mut publisher = Follower::connect(&fleet.members[1].client)?;
            for number in [0, count / 2, count - 1] {
                publisher.publish(&format!("region.{}.device.{number}.state", number % 100), "x")?;
            }
            publisher.confirm(Duration::from_secs(10))?;
            eventually("3 messages", Duration::from_secs(10), || {
                ensure!(follower.count() == 3, "{} of 3 messages came", follower.count());
                Ok(())
            })?;
            let limit = (Duration::from_secs(5), 200 << 20);
            ensure!(
                *kind == Kind::Theirs || (took < limit.0 && full < limit.1),
                "{took:?} and {full} bytes are beyond {limit:?}"
            );
            Ok(format!(
                "{:.2} s from its start; it grew from {:.1} to {:.1} MB",
                took.as_secs_f64(),
                empty as f64 / 1e6,
                full as f64 / 1e6
            ))
        })?;
    }
    Ok(())
}
