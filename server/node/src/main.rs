//! The broker's program.

use broker::link::About;
use broker::mailbox::Command;
use broker::{Broker, LinkKind};
use engine::{Settings, Worker};
use node::worker_thread::{Incoming, WorkerThread, now_nanos, prepare};
use std::sync::Arc;

fn main() -> anyhow::Result<()> {
    let port = std::env::args().skip_while(|a| a != "-p").nth(1).unwrap_or("4222".into());
    let count = std::thread::available_parallelism()?.get();
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push(prepare()?);
    }
    let broker = Broker::new(parts.iter().map(|(_, mailbox)| mailbox.clone()).collect(), now_nanos());
    let settings = Arc::new(Settings::default());
    for (number, (poll, mailbox)) in parts.into_iter().enumerate() {
        let (broker, settings) = (broker.clone(), settings.clone());
        std::thread::spawn(move || {
            let worker = Worker::new(number, broker, settings, now_nanos());
            WorkerThread::new(poll, mailbox, worker).run()
        });
    }
    let listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}"))?;
    let account = broker.account("$G");
    let mut next = 0;
    loop {
        let (stream, peer) = listener.accept()?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let id = broker.next_id();
        let mut greeting = vec![];
        wire::info::Info {
            server_id: "S".into(),
            version: "2.15.2".into(),
            proto: 1,
            headers: true,
            max_payload: 1 << 20,
            client_id: id,
            ..Default::default()
        }
        .encode(&mut greeting);
        let about = About { ip: peer.ip().to_string(), port: peer.port(), start_nanos: now_nanos(), ..About::default() };
        let incoming = Incoming { stream, kind: LinkKind::Client, id, about, greeting, account: account.clone() };
        broker.mailboxes()[next % count].post(Command::Other(Box::new(incoming)));
        next += 1;
    }
}
