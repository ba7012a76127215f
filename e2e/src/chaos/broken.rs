//! A broken broker for `cargo test`, to see that the checker finds it: a sound one behind a connection that, drawn
//! from a seed, drops a message, delivers it twice, or swaps it with the next of its publisher. What a client sees is
//! what the broken build shows it (`starling-e2e defects`), which takes a build of the broker to run.

use std::collections::HashMap;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// How it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Not at all.
    None,
    /// A message is not delivered.
    Drop,
    /// A message is delivered twice.
    Duplicate,
    /// A message is delivered after the next one of the same subject.
    Reorder,
}

/// Listens on a free port and passes everything on to a server, but for one message in `one_in`.
pub async fn start(server: String, defect: Defect, one_in: u64, seed: u64) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("nats://{}", listener.local_addr()?);
    tokio::spawn(async move {
        let mut connections = 0;
        while let Ok((client, _)) = listener.accept().await {
            connections += 1;
            let random = fastrand::Rng::with_seed(seed.wrapping_add(connections));
            let server = server.clone();
            tokio::spawn(async move {
                let _ = pass(client, &server, defect, one_in, random).await;
            });
        }
    });
    Ok(url)
}

async fn pass(
    client: TcpStream,
    server: &str,
    defect: Defect,
    one_in: u64,
    mut random: fastrand::Rng,
) -> Result<()> {
    let upstream = TcpStream::connect(server.trim_start_matches("nats://")).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = upstream.into_split();
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut from_server = BufReader::with_capacity(1 << 16, from_server);
    let mut held: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if from_server.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if !line.starts_with(b"MSG ") && !line.starts_with(b"HMSG ") {
            to_client.write_all(&line).await?;
            continue;
        }
        let words: Vec<&[u8]> = line.trim_ascii_end().split(|byte| *byte == b' ').collect();
        let size = words.last().and_then(|word| std::str::from_utf8(word).ok()?.parse::<usize>().ok());
        let subject = words.get(1).map(|subject| subject.to_vec()).unwrap_or_default();
        let head = line.len();
        let mut message = std::mem::take(&mut line);
        message.resize(head + size.context("a message without a size")? + 2, 0);
        from_server.read_exact(&mut message[head..]).await?;
        // Answers to requests are left alone: their loss is found by another rule.
        let drawn = !subject.starts_with(b"_INBOX") && random.u64(0..one_in) == 0;
        match (defect, drawn) {
            (Defect::Drop, true) => {}
            (Defect::Duplicate, true) => {
                to_client.write_all(&message).await?;
                to_client.write_all(&message).await?;
            }
            (Defect::Reorder, true) if !held.contains_key(&subject) => {
                held.insert(subject, message);
            }
            _ => {
                to_client.write_all(&message).await?;
                if let Some(earlier) = held.remove(&subject) {
                    to_client.write_all(&earlier).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use config::{Config, Settings};
    use e2e::checker::Kind;
    use node::Server;

    use super::super::defects::{judge, verdict};
    use super::*;

    #[test]
    fn a_sound_broker_passes_and_one_that_breaks_one_message_in_ten_thousand_fails() {
        let judges = [
            (Defect::None, None),
            (Defect::Drop, Some(Kind::Lost)),
            (Defect::Duplicate, Some(Kind::Duplicated)),
            (Defect::Reorder, Some(Kind::Reordered)),
        ];
        let threads = judges.map(|(defect, expected)| {
            let text = "listen: \"127.0.0.1:-1\"";
            let settings = Settings::from_config(&Config::parse_text(text).unwrap()).unwrap().settings;
            let server = Server::start(settings).unwrap();
            let url = server.client_url();
            let judge =
                std::thread::spawn(move || judge(async move || start(url, defect, 10_000, 1).await).unwrap());
            (judge, server, defect, expected)
        });
        for (judge, _server, defect, expected) in threads {
            let report = judge.join().unwrap();
            verdict(&report, expected).unwrap_or_else(|error| panic!("{defect:?}: {error}"));
        }
    }
}
