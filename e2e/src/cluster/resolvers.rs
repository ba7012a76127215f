//! Operator mode in clusters of both kinds of servers: folders of account tokens that become alike, and caches before
//! them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client, Event};
use futures::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Context;
use super::fleet::{Fleet, Kind, Plan};
use crate::clients::{Watched, exchange};
use crate::process::eventually;
use crate::tokens::{Account, Operator, now_seconds};

const PATIENCE: Duration = Duration::from_secs(20);
const UPDATE: &str = "$SYS.REQ.CLAIMS.UPDATE";

/// Where a member keeps tokens.
fn folder(fleet: &Fleet, name: &str) -> PathBuf {
    fleet.folder().join(format!("{name}-tokens"))
}

/// Puts tokens into the folder of a server to be.
pub fn fill(fleet: &Fleet, name: &str, tokens: &[(&Account, &str)]) -> Result<()> {
    let folder = folder(fleet, name);
    std::fs::create_dir_all(&folder)?;
    for (account, token) in tokens {
        std::fs::write(folder.join(account.file()), token)?;
    }
    Ok(())
}

/// Starts a server that keeps its tokens in its folder.
pub fn add(fleet: &mut Fleet, (name, kind): (&str, Kind), operator: &Operator, resolver: &str) -> Result<()> {
    let lines = operator.lines(&format!("{{ {resolver}, dir: {:?} }}", folder(fleet, name)));
    fleet.add(Plan::new(name, kind).with(&lines)).map(drop)
}

/// A token in a member's folder; nothing if it has none.
fn stored(fleet: &Fleet, name: &str, account: &Account) -> Option<String> {
    std::fs::read_to_string(folder(fleet, name).join(account.file())).ok()
}

/// A client of an account's user.
fn login(context: &Context, fleet: &Fleet, member: usize, account: &Account) -> Result<Watched> {
    let (url, options) = (fleet.members[member].url(), account.login()?);
    context.runtime.block_on(Watched::connect_with(&url, options))
}

/// Asks in the system account; the answers of so many servers.
async fn ask(client: &Client, subject: &str, payload: Vec<u8>, servers: usize) -> Result<Vec<Value>> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(subject.to_owned(), inbox, payload.into()).await?;
    let mut documents = Vec::new();
    while documents.len() < servers {
        let answer = tokio::time::timeout(Duration::from_secs(5), answers.next()).await;
        let answer = answer.with_context(|| format!("{subject}: only {documents:?}"))?;
        let document: Value = serde_json::from_slice(&answer.context("the connection ended")?.payload)?;
        ensure!(document["error"].is_null(), "{subject}: {document}");
        documents.push(document);
    }
    Ok(documents)
}

/// The exclusive or of the tokens' hashes: what servers compare.
fn hash(tokens: &[String]) -> Vec<u8> {
    let mut hash = vec![0; 32];
    for token in tokens {
        hash.iter_mut().zip(Sha256::digest(token)).for_each(|(byte, other)| *byte ^= other);
    }
    hash
}

/// A nats-server and one of ours with full directories.
const BOTH: [(&str, Kind); 2] = [("theirs", Kind::Theirs), ("ours", Kind::Ours)];

/// Both, their tokens, and a user of the system account at each.
struct Both {
    operator: Operator,
    accounts: Vec<Account>,
    /// Of the accounts, as both come to have them.
    tokens: Vec<String>,
    fleet: Fleet,
    admins: Vec<Watched>,
}

/// A nats-server and one of ours with full directories, different at first.
pub fn folders(context: &mut Context) -> Result<()> {
    let operator = Operator::new()?;
    let accounts: Vec<Account> = (0..6).map(|_| Account::new()).collect();
    let mint = |age: i64| -> Result<Vec<String>> {
        let issued_at = now_seconds() - age;
        accounts.iter().map(|account| operator.account_token(account, json!({}), issued_at)).collect()
    };
    let (tokens, older) = (mint(60)?, mint(120)?);
    let (fleet, admins) = (Fleet::new(&context.programs)?, Vec::new());
    let mut both = Both { operator, accounts, tokens, fleet, admins };
    let name = "full directories of nats-server and ours, different at first, become alike";
    context.step(name, |_| both.start(&older))?;
    for member in 0..BOTH.len() {
        both.admins.push(login(context, &both.fleet, member, &both.operator.system)?);
    }
    context.step("their lists and hashes are the same", |context| both.compare(context))?;
    context.step("users of every account talk across both", |context| {
        for account in &both.accounts {
            let (one, two) =
                (login(context, &both.fleet, 0, account)?, login(context, &both.fleet, 1, account)?);
            context.runtime.block_on(exchange(&one.client, &two.client, "across", 10))?;
            context.runtime.block_on(exchange(&two.client, &one.client, "back", 10))?;
        }
        Ok(format!("{} accounts", both.accounts.len()))
    })?;
    let name = "a token pushed to either reaches the other, and its clients";
    context.step(name, |context| both.push(context))?;
    context.step("an account deleted at either is gone at both", |context| both.delete(context))
}

impl Both {
    /// Starts them: the first two accounts are theirs alone, the next two ours alone; of the last two both have a
    /// token, of another age.
    fn start(&mut self, older: &[String]) -> Result<String> {
        let new = &self.tokens;
        let shares = [
            [(0, &new[0]), (1, &new[1]), (4, &new[4]), (5, &older[5])],
            [(2, &new[2]), (3, &new[3]), (4, &older[4]), (5, &new[5])],
        ];
        for (member, share) in BOTH.into_iter().zip(&shares) {
            let share: Vec<_> =
                share.iter().map(|(number, token)| (&self.accounts[*number], token.as_str())).collect();
            let resolver = "type: full, interval: \"500ms\", allow_delete: true";
            fill(&self.fleet, member.0, &share)?;
            add(&mut self.fleet, member, &self.operator, resolver)?;
        }
        self.fleet.mesh(PATIENCE)?;
        let start = Instant::now();
        eventually("both hold the newest token of every account", PATIENCE, || {
            for (name, _) in BOTH {
                for (number, (account, token)) in self.accounts.iter().zip(&self.tokens).enumerate() {
                    let found = stored(&self.fleet, name, account);
                    ensure!(found.as_ref() == Some(token), "{name} has of account {number}: {found:?}");
                }
            }
            Ok(())
        })?;
        Ok(format!("{} tokens each after {:.1} s", self.accounts.len() + 1, start.elapsed().as_secs_f64()))
    }

    /// What both answer about all tokens.
    fn compare(&self, context: &Context) -> Result<String> {
        let system = BOTH.map(|(name, _)| stored(&self.fleet, name, &self.operator.system));
        ensure!(system[0] == system[1], "the system account's tokens differ");
        let all: Vec<String> = self.tokens.iter().cloned().chain(system[0].clone()).collect();
        let keys = |document: &Value| -> Option<BTreeSet<String>> {
            document["data"].as_array()?.iter().map(|key| key.as_str().map(str::to_owned)).collect()
        };
        let expected = self.accounts.iter().chain([&self.operator.system]).map(Account::name).collect();
        for admin in &self.admins {
            let ask = ask(&admin.client, "$SYS.REQ.CLAIMS.LIST", Vec::new(), 2);
            for document in context.runtime.block_on(ask)? {
                ensure!(keys(&document).as_ref() == Some(&expected), "{document}");
            }
            // one of both answers, by chance: nothing but an end where the hash is right
            for _ in 0..8 {
                let ask = admin.client.request("$SYS.REQ.CLAIMS.PACK", hash(&all).into());
                let answer = context.runtime.block_on(ask)?;
                ensure!(answer.payload.is_empty(), "another hash: {answer:?}");
            }
        }
        Ok(String::new())
    }

    /// A token that revokes all users, pushed to each.
    fn push(&self, context: &Context) -> Result<String> {
        for (pushed, other) in [(0, 1), (1, 0)] {
            let account = &self.accounts[pushed];
            let inside = login(context, &self.fleet, other, account)?;
            let revocations = json!({"revocations": {"*": now_seconds() + 60}});
            let revoking = self.operator.account_token(account, revocations, now_seconds())?;
            let ask = ask(&self.admins[pushed].client, UPDATE, revoking.clone().into(), 2);
            for document in context.runtime.block_on(ask)? {
                ensure!(document["data"]["message"] == "jwt updated", "{document}");
            }
            eventually("both keep it, and the user is sent away", PATIENCE, || {
                for (name, _) in BOTH {
                    ensure!(stored(&self.fleet, name, account).as_ref() == Some(&revoking), "{name}");
                }
                ensure!(inside.count(&Event::Disconnected) > 0, "the user is still in");
                Ok(())
            })?;
            for (member, (name, _)) in BOTH.iter().enumerate() {
                ensure!(login(context, &self.fleet, member, account).is_err(), "{name} lets it in");
            }
        }
        Ok(String::new())
    }

    /// Deletes one account at each.
    fn delete(&self, context: &Context) -> Result<String> {
        let deleted = [&self.accounts[4], &self.accounts[5]];
        for (admin, account) in self.admins.iter().zip(deleted) {
            let inside = [login(context, &self.fleet, 0, account)?, login(context, &self.fleet, 1, account)?];
            let deletion = self.operator.deletion(&[account])?;
            let ask = ask(&admin.client, "$SYS.REQ.CLAIMS.DELETE", deletion.into(), 2);
            for document in context.runtime.block_on(ask)? {
                ensure!(document["data"]["message"] == "deleted 1 accounts", "{document}");
            }
            eventually("its files and its users are gone", PATIENCE, || {
                for ((name, _), client) in BOTH.iter().zip(&inside) {
                    ensure!(stored(&self.fleet, name, account).is_none(), "{name} has its token");
                    let kept = folder(&self.fleet, name).join(format!("{}.deleted", account.file()));
                    ensure!(kept.exists(), "{name} has not kept the deleted file");
                    ensure!(client.count(&Event::Disconnected) > 0, "its user is still at {name}");
                }
                Ok(())
            })?;
        }
        // comparing does not bring them back
        std::thread::sleep(Duration::from_millis(1200));
        for (name, _) in BOTH {
            let back = deleted.map(|account| stored(&self.fleet, name, account));
            ensure!(back == [None, None], "{name} has deleted tokens again");
        }
        Ok(String::new())
    }
}

/// A cache of each kind before a full directory of the other kind.
pub fn caches(context: &mut Context) -> Result<()> {
    const PAIRS: [(&str, Kind, Kind); 2] = [
        ("nats-server as a cache before our full directory", Kind::Ours, Kind::Theirs),
        ("ours as a cache before nats-server's full directory", Kind::Theirs, Kind::Ours),
    ];
    for (name, full, cache) in PAIRS {
        let mut fleet = Fleet::new(&context.programs)?;
        context.step(name, |context| cached(context, &mut fleet, full, cache))?;
    }
    Ok(())
}

fn cached(context: &Context, fleet: &mut Fleet, full: Kind, cache: Kind) -> Result<String> {
    let operator = Operator::new()?;
    let accounts: Vec<Account> = (0..3).map(|_| Account::new()).collect();
    let mint = |account: &Account, nats: Value| operator.account_token(account, nats, now_seconds());
    let tokens = accounts.iter().map(|account| mint(account, json!({}))).collect::<Result<Vec<String>>>()?;
    let all: Vec<_> =
        accounts.iter().zip(&tokens).map(|(account, token)| (account, token.as_str())).collect();
    fill(fleet, "full", &all)?;
    add(fleet, ("full", full), &operator, "type: full")?;
    // the system account's and two more
    fill(fleet, "cache", &[])?;
    add(fleet, ("cache", cache), &operator, "type: cache, limit: 3, ttl: \"1h\"")?;
    fleet.mesh(PATIENCE)?;
    let mut inside = Vec::new();
    for (account, token) in accounts.iter().zip(&tokens) {
        // servers hear of each other a moment after they are joined
        inside.push(eventually("its token is fetched", PATIENCE, || login(context, fleet, 1, account))?);
        ensure!(stored(fleet, "cache", account).as_ref() == Some(token), "its token is not kept");
    }
    let files = std::fs::read_dir(folder(fleet, "cache"))?.count();
    ensure!(files == 3, "{files} files, not 3");
    ensure!(login(context, fleet, 1, &Account::new()).is_err(), "an account that nobody has is let in");
    let [first, ..] = accounts.as_slice() else { return Ok(String::new()) };
    let (one, two) = (&inside[0].client, login(context, fleet, 1, first)?.client);
    context.runtime.block_on(exchange(one, &two, "near", 10))?;
    let revoking = mint(first, json!({"revocations": {"*": now_seconds() + 60}}))?;
    let options = operator.system.login()?;
    context.runtime.block_on(async {
        let admin = Watched::connect_with(&fleet.members[0].url(), options).await?;
        let answers = ask(&admin.client, UPDATE, revoking.clone().into(), 2).await?;
        let messages: BTreeSet<_> = answers.iter().filter_map(|a| a["data"]["message"].as_str()).collect();
        ensure!(messages == BTreeSet::from(["jwt updated", "jwt updated cache"]), "{answers:?}");
        anyhow::Ok(())
    })?;
    eventually("the update is kept, and the user is sent away", PATIENCE, || {
        ensure!(stored(fleet, "cache", first).as_ref() == Some(&revoking), "it has the old token");
        ensure!(inside[0].count(&Event::Disconnected) > 0, "the user is still in");
        Ok(())
    })?;
    ensure!(login(context, fleet, 1, first).is_err(), "a revoked user is let in");
    Ok(format!("{} accounts with room for 3 tokens", accounts.len()))
}
