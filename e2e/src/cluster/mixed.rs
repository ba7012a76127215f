//! nats-server and ours in one cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Context;
use super::fleet::{Fleet, Kind, Plan};
use super::load::Load;
use crate::clients::{Watched, exchange, exchange_all, exchange_as, request, request_as, share, shares};

/// Two accounts whose users hear nothing of each other but what one exports and the other imports.
const ACCOUNTS: &str = "accounts {
  A { users: [{user: a, password: a}], exports: [{stream: \"shared.>\"}, {service: \"answers.*\"}] }
  B { users: [{user: b, password: b}], imports: [
    {stream: {account: A, subject: \"shared.>\"}, prefix: from.a}
    {service: {account: A, subject: \"answers.*\"}, to: \"ask.a.*\"}
  ] }
}
";
const MESH_TIMEOUT: Duration = Duration::from_secs(30);

/// 2 nats-servers and 2 of ours: every kind of traffic between clients of each pair of servers.
pub fn serve(context: &mut Context) -> Result<()> {
    let mut fleet = Fleet::new(&context.programs)?;
    context.step("2 nats-servers and 2 of ours form one cluster", |_| {
        let kinds = [
            ("theirs-1", Kind::Theirs),
            ("ours-1", Kind::Ours),
            ("theirs-2", Kind::Theirs),
            ("ours-2", Kind::Ours),
        ];
        for (name, kind) in kinds {
            // one of theirs wants routes compressed where the other side can
            let compression = if name == "theirs-2" { "  compression: s2_fast\n" } else { "" };
            fleet.add(Plan::new(name, kind).with(ACCOUNTS).with_cluster(compression))?;
        }
        let took = fleet.mesh(MESH_TIMEOUT)?;
        Ok(format!("full mesh {:.1} s after the last start", took.as_secs_f64()))
    })?;
    let mut clients = Vec::new();
    context.step("clients of two accounts connect to each", |context| {
        for member in &fleet.members {
            let connect =
                |user: &str| context.runtime.block_on(Watched::connect_as(&member.url(), user, user));
            clients.push((connect("a")?, connect("b")?));
        }
        Ok(String::new())
    })?;
    context.step("messages and requests between all pairs", |context| {
        let mut pairs = 0;
        for (i, (from, _)) in clients.iter().enumerate() {
            for (j, (to, _)) in clients.iter().enumerate().filter(|(j, _)| *j != i) {
                context.runtime.block_on(async {
                    exchange(&from.client, &to.client, &format!("exchange.{i}.{j}"), 500).await?;
                    request(&from.client, &to.client, &format!("service.{i}.{j}")).await
                })?;
                pairs += 1;
            }
        }
        Ok(format!("{pairs} pairs"))
    })?;
    context.step("a queue group over all servers gets each message once", |context| {
        let members: Vec<_> = clients.iter().map(|(a, _)| a.client.clone()).collect();
        for (i, (from, _)) in clients.iter().enumerate() {
            context.runtime.block_on(share(&from.client, &members, &format!("jobs.{i}"), 1000))?;
        }
        Ok(String::new())
    })?;
    context.step("a queue group's members count, wherever they are", |context| {
        let mut notes = Vec::new();
        for (from, near, far) in [(0, 2, 1), (2, 1, 3), (3, 0, 2), (1, 3, 0)] {
            // one member and three
            let members = [(&clients[near].0.client, 1), (&clients[far].0.client, 3)];
            let subject = format!("weighed.{from}");
            let got = context.runtime.block_on(shares(&clients[from].0.client, &members, &subject, 4000))?;
            ensure!(got[1].abs_diff(3000) < 150, "{subject}: 1 and 3 members got {got:?} of 4000");
            notes.push(format!("{}/{}", got[0], got[1]));
        }
        Ok(format!("1 and 3 members got {} of 4000", notes.join(", ")))
    })?;
    context.step("an account imports streams and services of another over all pairs", |context| {
        let mut pairs = 0;
        for (i, (a, asking)) in clients.iter().enumerate() {
            for (j, (answering, b)) in clients.iter().enumerate() {
                context.runtime.block_on(async {
                    let (said, heard) = (format!("shared.{i}.{j}"), format!("from.a.shared.{i}.{j}"));
                    exchange_as(&a.client, &said, &b.client, &heard, 200).await?;
                    let (asked, served) = (format!("ask.a.{i}-{j}"), format!("answers.{i}-{j}"));
                    request_as(&asking.client, &asked, &answering.client, &served).await
                })?;
                pairs += 1;
            }
        }
        Ok(format!("{pairs} pairs, 200 messages of a stream and a request with its answer each"))
    })?;
    context.step("accounts do not hear each other", |context| {
        context.runtime.block_on(async {
            use futures::StreamExt;
            let mut heard = Vec::new();
            for (_, b) in &clients {
                heard.push(b.client.subscribe("apart.>").await?);
                b.client.flush().await?;
            }
            for (i, (from, _)) in clients.iter().enumerate() {
                let to = &clients[(i + 1) % clients.len()].0;
                exchange(&from.client, &to.client, &format!("apart.{i}"), 100).await?;
            }
            for subscription in &mut heard {
                let message = tokio::time::timeout(Duration::from_millis(50), subscription.next()).await;
                ensure!(message.is_err(), "account B heard {message:?}");
            }
            for (i, (_, from)) in clients.iter().enumerate() {
                let to = &clients[(i + 1) % clients.len()].1;
                exchange(&from.client, &to.client, &format!("other.{i}"), 100).await?;
            }
            anyhow::Ok(())
        })?;
        Ok(String::new())
    })?;
    drop(clients);
    context.step("interest is exact on all four", |_| {
        let took = fleet.interest(MESH_TIMEOUT)?;
        Ok(format!("{:.1} s after the clients left", took.as_secs_f64()))
    })
}

/// Servers of both kinds with every mode of compression: what they agree on, and messages of every size between all.
pub fn compression(context: &mut Context) -> Result<()> {
    const MODES: [(&str, &str); 5] = [
        ("fast", "s2_fast"),
        ("better", "s2_better"),
        ("best", "s2_best"),
        ("accept", "accept"),
        ("off", "\"off\""),
    ];
    // a round trip on loopback is between the first threshold and the second
    const AUTO: &str = "{ mode: s2_auto, rtt_thresholds: [\"0ms\", \"10s\", \"20s\"] }";
    let mut fleet = Fleet::new(&context.programs)?;
    context.step("6 nats-servers and 6 of ours, each with another compression", |_| {
        for (kind, whose) in [(Kind::Theirs, "theirs"), (Kind::Ours, "ours")] {
            for (name, mode) in MODES.into_iter().chain([("auto", AUTO)]) {
                let plan = Plan::new(&format!("{whose}-{name}"), kind);
                fleet
                    .add(plan.with_cluster(&format!("  compression: {mode}\n")).with("max_payload: 8MB\n"))?;
            }
        }
        let took = fleet.mesh(MESH_TIMEOUT)?;
        Ok(format!("full mesh {:.1} s after the last start", took.as_secs_f64()))
    })?;
    context.step("ours agree with all others on what nats-servers agree on with each other", |_| {
        let mode = |name: &str| name.split_once('-').map(|(_, mode)| mode.to_owned()).unwrap_or_default();
        // what nats-servers made of two modes
        let mut theirs = BTreeMap::new();
        let mut all = Vec::new();
        for member in &fleet.members {
            let routez = member.page("routez")?;
            for route in routez["routes"].as_array().context("no routes")? {
                let peer = route["remote_name"].as_str().context("no name")?;
                let agreed = route["compression"].as_str().unwrap_or_default().to_owned();
                if member.plan.kind == Kind::Theirs && peer.starts_with("theirs") {
                    theirs.insert((mode(member.name()), mode(peer)), agreed.clone());
                }
                all.push((member.name().to_owned(), peer.to_owned(), agreed));
            }
        }
        let mut compressed = 0;
        for (from, to, agreed) in &all {
            // two of one mode met only between kinds
            let Some(expected) = theirs.get(&(mode(from), mode(to))) else { continue };
            ensure!(agreed == expected, "{from} with {to}: {agreed}; nats-servers: {expected}");
            compressed += usize::from(agreed.starts_with("s2_"));
        }
        ensure!(compressed > 100, "only {compressed} connections are compressed");
        Ok(format!("{} route connections, {compressed} of them compressed", all.len()))
    })?;
    context.step("messages from nothing to 6 MB between all pairs of both kinds", |context| {
        let mut clients = Vec::new();
        for member in &fleet.members {
            let client = context.runtime.block_on(async_nats::connect(member.url()))?;
            clients.push((member.plan.kind, client));
        }
        let mut noise = vec![0_u8; 2 << 20];
        let mut random = fastrand::Rng::with_seed(7);
        noise.iter_mut().for_each(|byte| *byte = random.u8(..));
        let mut payloads: Vec<Vec<u8>> = (0..200).map(|n| format!("number {n}").repeat(n).into()).collect();
        payloads.extend([b"x".repeat(6 << 20), noise.clone(), noise[..70_000].to_vec(), Vec::new()]);
        let mut pairs = 0;
        for (i, (kind, from)) in clients.iter().enumerate() {
            for (j, (other, to)) in clients.iter().enumerate() {
                if kind == other && (*kind == Kind::Theirs || i == j) {
                    continue;
                }
                let subject = format!("sizes.{i}.{j}");
                context.runtime.block_on(exchange_all(from, to, &subject, &payloads))?;
                pairs += 1;
            }
        }
        Ok(format!("{pairs} ordered pairs, {} messages each", payloads.len()))
    })
}

/// 3 nats-servers are replaced one by one by ours, and back, under load.
pub fn replace(context: &mut Context) -> Result<()> {
    // 30 s is the shortest that nats-server takes
    let drain = "lame_duck_grace_period: 1s\nlame_duck_duration: 30s\n";
    let mut fleet = Fleet::new(&context.programs)?;
    let mut load = None;
    context.step("3 nats-servers under load", |_| {
        for number in 1..=3 {
            fleet.add(Plan::new(&format!("theirs-{number}"), Kind::Theirs).with(drain))?;
        }
        fleet.mesh(MESH_TIMEOUT)?;
        let servers: Vec<String> = fleet.members.iter().map(|member| member.client.clone()).collect();
        load = Some(Load::start(&servers, 1000)?);
        Ok("3 publishers, 6 subscribers".to_owned())
    })?;
    let mut swap = |old: String, new: String, kind: Kind| -> Result<()> {
        // each newcomer is told the addresses that live now
        fleet.add(Plan::new(&new, kind).with(drain))?;
        fleet.mesh(MESH_TIMEOUT)?;
        std::thread::sleep(Duration::from_millis(300));
        fleet.drain(&old, Duration::from_secs(40))?;
        fleet.mesh(MESH_TIMEOUT)?;
        Ok(())
    };
    let result = context.step("each is replaced by ours", |_| {
        (1..=3).try_for_each(|n| swap(format!("theirs-{n}"), format!("ours-{n}"), Kind::Ours))?;
        Ok(String::new())
    });
    let result = result.and_then(|()| {
        context.step("and back", |_| {
            (1..=3).try_for_each(|n| swap(format!("ours-{n}"), format!("theirs-{}", n + 3), Kind::Theirs))?;
            Ok(String::new())
        })
    });
    result?;
    context.step("nothing was lost between connected clients", |_| {
        let verdict = load.context("no load")?.finish()?;
        ensure!(verdict.moves >= 6 * 3, "only {} moves: not everybody was moved", verdict.moves);
        Ok(format!(
            "{} published, {} delivered, {} moves; 0 lost; {} fell between two connections of plain clients",
            verdict.published, verdict.delivered, verdict.moves, verdict.between
        ))
    })
}
