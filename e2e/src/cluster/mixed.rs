//! nats-server and ours in one cluster.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Context;
use super::fleet::{Fleet, Kind, Plan};
use super::load::Load;
use crate::clients::{Watched, exchange, request, share};

/// Two accounts whose users cannot hear each other.
const ACCOUNTS: &str =
    "accounts {\n  A { users: [{user: a, password: a}] }\n  B { users: [{user: b, password: b}] }\n}\n";
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
            // one of theirs wants routes compressed where the other side can: ours says that it cannot
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
