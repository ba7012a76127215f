//! Accounts by the thousand, measured: a full directory of tokens, and one user of each account logs in.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Context;
use super::fleet::{Fleet, Kind};
use super::resolvers::{add, fill};
use crate::process::eventually;
use crate::tokens::{Account, Operator, now_seconds};

const ACCOUNTS: usize = 5000;
/// Logins under way at a time.
const AT_A_TIME: usize = 64;
/// Runs of each server, in turn.
const ROUNDS: usize = 3;

/// What a server took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    start: Duration,
    serve: Duration,
    processor: Duration,
    /// Resident bytes: at the start, with all connected, when all have left.
    resident: [u64; 3],
}

impl Cost {
    fn text(&self) -> String {
        let megabytes = self.resident.map(|bytes| format!("{:.1}", bytes as f64 / 1e6));
        format!(
            "started in {:.2} s; served in {:.2} s, {:.2} s of processor time; {} MB at the start, {} with all \
             connected, {} when all had left",
            self.start.as_secs_f64(),
            self.serve.as_secs_f64(),
            self.processor.as_secs_f64(),
            megabytes[0],
            megabytes[1],
            megabytes[2]
        )
    }

    /// Each figure apart, in the order of [`NAMES`].
    fn figures(&self) -> [f64; 5] {
        let grown = self.resident[1].saturating_sub(self.resident[0]);
        let left = self.resident[2].saturating_sub(self.resident[0]);
        let [start, serve, processor] = [self.start, self.serve, self.processor].map(|d| d.as_secs_f64());
        [start, serve, processor, grown as f64, left as f64]
    }
}

const NAMES: [&str; 5] = [
    "time to start",
    "time to serve",
    "processor time",
    "memory grown with all connected",
    "memory left behind",
];

/// 5,000 accounts on a server of each kind, in turn.
pub fn tenants(context: &mut Context) -> Result<()> {
    let operator = Operator::new()?;
    let accounts: Vec<Account> = (0..ACCOUNTS).map(|_| Account::new()).collect();
    let mint = |account: &Account| operator.account_token(account, json!({}), now_seconds());
    let tokens = accounts.iter().map(mint).collect::<Result<Vec<String>>>()?;
    let tokens: Vec<_> =
        accounts.iter().zip(&tokens).map(|(account, token)| (account, token.as_str())).collect();
    let users =
        accounts.iter().map(|account| Ok((account, account.user_token()?))).collect::<Result<Vec<_>>>()?;
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (side, (kind, name)) in
            [(Kind::Theirs, "nats-server"), (Kind::Ours, "ours")].into_iter().enumerate()
        {
            let mut fleet = Fleet::new(&context.programs)?;
            context.step(&format!("{ACCOUNTS} accounts, {name}"), |context| {
                fill(&fleet, "one", &tokens)?;
                let start = Instant::now();
                add(&mut fleet, ("one", kind), &operator, "type: full")?;
                let cost = context.runtime.block_on(measure(&fleet, &users, start.elapsed()))?;
                costs[side].push(cost);
                Ok(cost.text())
            })?;
        }
    }
    let middle = |costs: &[Cost], figure: usize| {
        let mut figures: Vec<f64> = costs.iter().map(|cost| cost.figures()[figure]).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    context.step("ours beside nats-server, medians", |_| {
        let ratios = NAMES.iter().enumerate().map(|(figure, name)| {
            format!("{name} {:.2}", middle(&costs[1], figure) / middle(&costs[0], figure))
        });
        Ok(ratios.collect::<Vec<_>>().join(", "))
    })
}

async fn measure(fleet: &Fleet, users: &[(&Account, String)], start: Duration) -> Result<Cost> {
    let member = fleet.members.first().context("no server")?;
    let (began, before) = (member.processor_time()?, member.resident_bytes()?);
    let clock = Instant::now();
    let served = futures::stream::iter(users).map(|(account, jwt)| serve(&member.client, account, jwt));
    let connections: Vec<TcpStream> = served.buffer_unordered(AT_A_TIME).try_collect().await?;
    let serve = clock.elapsed();
    let processor = member.processor_time()?.saturating_sub(began);
    let connected = member.resident_bytes()?;
    drop(connections);
    eventually("all have left", Duration::from_secs(20), || {
        let varz = member.page("varz")?;
        ensure!(varz["connections"] == 0, "{} are connected", varz["connections"]);
        Ok(())
    })?;
    // servers give memory back a while after
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(Cost { start, serve, processor, resident: [before, connected, member.resident_bytes()?] })
}

/// An account's user logs in and hears itself.
async fn serve(server: &str, account: &Account, jwt: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let info = until(&mut stream, "\r\n").await?;
    let info: Value = serde_json::from_str(info.trim_start_matches("INFO ").trim())?;
    let signature = account.signature(info["nonce"].as_str().context("no nonce")?.as_bytes())?;
    let connect = json!({"jwt": jwt, "sig": signature, "verbose": false, "protocol": 1});
    let said = format!("CONNECT {connect}\r\nSUB hello 1\r\nPUB hello 5\r\nhello\r\nPING\r\n");
    stream.write_all(said.as_bytes()).await?;
    let heard = until(&mut stream, "PONG\r\n").await?;
    ensure!(heard.contains("MSG hello 1 5\r\nhello\r\n"), "{}: {heard}", account.name());
    Ok(stream)
}

/// Reads until this was read; more may come with it.
async fn until(stream: &mut TcpStream, end: &str) -> Result<String> {
    let mut read = Vec::new();
    while !read.windows(end.len()).any(|window| window == end.as_bytes()) {
        let count = tokio::time::timeout(Duration::from_secs(60), stream.read_buf(&mut read)).await??;
        ensure!(count > 0, "the server hung up: {}", String::from_utf8_lossy(&read));
    }
    Ok(String::from_utf8(read)?)
}
