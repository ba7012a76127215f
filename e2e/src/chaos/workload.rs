//! One client of the workload, by the official Rust library: it publishes numbered messages to all
//! and to a queue group, receives both, makes requests (by the library's one inbox, and each by an
//! inbox of its own) and answers those of others, and notes all of it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::{Client, ConnectOptions, Event, Message, ServerAddr};
use e2e::checker::event::What;
use futures::StreamExt;
use tokio::time::{interval, sleep, timeout};

use super::log::Log;

/// Subject that requests go to.
const SERVICE: &str = "serve.echo";
/// How long a request waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that a subscription holds for its task; a library that drops some would be taken for a broker that does.
const SUBSCRIPTION_MESSAGES_MAX: usize = 1 << 20;
/// Every so many messages a large one.
const LARGE_EVERY: u64 = 100;
/// Size of the large ones: more than a socket's buffer takes along in one piece.
const LARGE_BYTES: usize = 20_000;

/// What the clients of a run are doing; shared by all of a process.
#[derive(Debug, Clone, Default)]
pub struct Stage(Arc<AtomicU8>);

impl Stage {
    /// Only subscriptions.
    const SUBSCRIBE: u8 = 0;
    /// Messages flow.
    const PUBLISH: u8 = 1;
    /// No new messages; those under way arrive.
    const DRAIN: u8 = 2;
    /// Clients end.
    const CLOSE: u8 = 3;

    /// Lets clients publish.
    pub fn publish(&self) {
        self.0.store(Self::PUBLISH, Ordering::Relaxed);
    }

    /// Lets clients publish no more.
    pub fn drain(&self) {
        self.0.store(Self::DRAIN, Ordering::Relaxed);
    }

    /// Ends the clients.
    pub fn close(&self) {
        self.0.store(Self::CLOSE, Ordering::Relaxed);
    }

    /// Waits until clients may publish.
    async fn published(&self) {
        while self.0.load(Ordering::Relaxed) == Self::SUBSCRIBE {
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn publishing(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::PUBLISH
    }

    async fn closed(&self) {
        while self.0.load(Ordering::Relaxed) != Self::CLOSE {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What one client does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name in the run.
    pub name: String,
    /// Where it connects first.
    pub servers: Vec<String>,
    /// Time between two times of publishing to everybody, and to the queue group.
    pub publish_every: Duration,
    /// Messages that are published then, of each kind.
    pub burst: u32,
    /// Time between two requests.
    pub request_every: Duration,
    /// Whether it answers requests.
    pub serves: bool,
    /// Whether it goes where INFO sends it; else only to `servers`, as behind a load balancer.
    pub follows: bool,
}

/// Runs a client until the stage ends it.
pub async fn run(plan: Plan, stage: Stage, log: Log) -> Result<()> {
    let client = connect(&plan, &log).await?;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(receive(client.clone(), plan.name.clone(), "fan.>", None, log.clone()));
    tasks.spawn(receive(client.clone(), plan.name.clone(), "work.>", Some("workers"), log.clone()));
    if plan.serves {
        tasks.spawn(serve(client.clone(), plan.name.clone(), log.clone()));
    }
    stage.published().await;
    for head in ["fan", "work"] {
        let subject = format!("{head}.{}", plan.name);
        tasks.spawn(publish(client.clone(), plan.clone(), subject, stage.clone(), log.clone()));
    }
    tasks.spawn(request(client.clone(), plan.clone(), stage.clone(), log.clone()));
    stage.closed().await;
    log.note(What::Closed { client: plan.name });
    Ok(())
}

async fn connect(plan: &Plan, log: &Log) -> Result<Client> {
    let known: Arc<OnceLock<Client>> = Arc::default();
    let (sink, name, own) = (log.clone(), plan.name.clone(), Arc::clone(&known));
    let options = || {
        let (sink, name, own) = (sink.clone(), name.clone(), Arc::clone(&own));
        let options = ConnectOptions::new();
        let options = if plan.follows { options } else { options.ignore_discovered_servers() };
        options
            .name(&plan.name)
            .ping_interval(Duration::from_secs(2))
            .connection_timeout(Duration::from_secs(2))
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
            .event_callback(move |event| {
                match event {
                    Event::Disconnected => sink.note(What::Disconnected { client: name.clone() }),
                    Event::Connected => {
                        if let Some(client) = own.get() {
                            let server = client.server_info().server_name;
                            sink.note(What::Connected { client: name.clone(), server });
                        }
                    }
                    _ => {}
                }
                async {}
            })
    };
    let servers: Vec<ServerAddr> =
        plan.servers.iter().map(|url| url.parse()).collect::<std::io::Result<_>>()?;
    let mut attempts = 0;
    let client = loop {
        match options().connect(&servers[..]).await {
            Ok(client) => break client,
            Err(_) if attempts < 100 => attempts += 1,
            Err(error) => return Err(error).with_context(|| plan.servers.join(",")),
        }
        sleep(Duration::from_millis(200)).await;
    };
    let server = client.server_info().server_name;
    log.note(What::Connected { client: plan.name.clone(), server });
    let _ = known.set(client.clone());
    Ok(client)
}

/// `PUBLISHER NUMBER LENGTH`, and padding up to that length.
fn payload(publisher: &str, number: u64) -> String {
    let wanted = if (number + 1).is_multiple_of(LARGE_EVERY) { LARGE_BYTES } else { 64 };
    let head = format!("{publisher} {number} {wanted} ");
    format!("{head:.<wanted$}")
}

/// Publisher and number of a message; a damaged one has no publisher, so that the checker flags it.
fn read(payload: &[u8]) -> (String, u64) {
    let damaged = || ("damaged".to_owned(), 0);
    let Ok(text) = std::str::from_utf8(payload) else { return damaged() };
    let mut words = text.split(' ');
    match (words.next(), words.next().map(str::parse), words.next().map(str::parse::<usize>)) {
        (Some(publisher), Some(Ok(number)), Some(Ok(length))) if text.len() == length => {
            (publisher.to_owned(), number)
        }
        _ => damaged(),
    }
}

async fn receive(
    client: Client,
    name: String,
    filter: &'static str,
    queue: Option<&'static str>,
    log: Log,
) -> Result<()> {
    let mut messages = match queue {
        Some(queue) => client.queue_subscribe(filter, queue.to_owned()).await?,
        None => client.subscribe(filter).await?,
    };
    client.flush().await?;
    log.note(What::Subscribed { client: name.clone(), filter: filter.into(), queue: queue.map(Into::into) });
    while let Some(message) = messages.next().await {
        let (publisher, number) = read(&message.payload);
        log.note(What::Received {
            client: name.clone(),
            filter: filter.into(),
            subject: message.subject.to_string(),
            publisher,
            number,
        });
    }
    Ok(())
}

async fn publish(client: Client, plan: Plan, subject: String, stage: Stage, log: Log) -> Result<()> {
    let mut tick = interval(plan.publish_every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0;
    while stage.publishing() {
        tick.tick().await;
        for _ in 0..plan.burst {
            log.note(What::Published { client: plan.name.clone(), subject: subject.clone(), number });
            client.publish(subject.clone(), payload(&plan.name, number).into()).await?;
            number += 1;
        }
    }
    Ok(())
}

async fn serve(client: Client, name: String, log: Log) -> Result<()> {
    let mut requests = client.queue_subscribe(SERVICE, "servers".to_owned()).await?;
    client.flush().await?;
    log.note(What::Serves { client: name, subject: SERVICE.into() });
    while let Some(Message { reply, payload, .. }) = requests.next().await {
        if let Some(reply) = reply {
            client.publish(reply, payload).await?;
        }
    }
    Ok(())
}

async fn request(client: Client, plan: Plan, stage: Stage, log: Log) -> Result<()> {
    let mut tick = interval(plan.request_every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let next = AtomicU64::new(0);
    let mut open = tokio::task::JoinSet::new();
    // Time for interest in the service to reach all servers; the checker allows it too.
    sleep(Duration::from_secs(2)).await;
    while stage.publishing() {
        tick.tick().await;
        while open.try_join_next().is_some() {}
        let number = next.fetch_add(1, Ordering::Relaxed);
        let name = plan.name.clone();
        log.note(What::Requested { client: name.clone(), subject: SERVICE.into(), number });
        let (client, log) = (client.clone(), log.clone());
        open.spawn(async move {
            let answers = if number.is_multiple_of(2) {
                ask(&client, number).await
            } else {
                ask_by_inbox(&client, number).await
            };
            match answers {
                Answers::Came(count) => {
                    (0..count).for_each(|_| log.note(What::Answered { client: name.clone(), number }));
                }
                Answers::None => log.note(What::Unanswered { client: name, number }),
                Answers::Nobody => log.note(What::Refused { client: name, number }),
            }
        });
    }
    while open.join_next().await.is_some() {}
    Ok(())
}

enum Answers {
    Came(usize),
    None,
    Nobody,
}

/// By the library's request, whose answers share one inbox.
async fn ask(client: &Client, number: u64) -> Answers {
    match timeout(REQUEST_TIMEOUT, client.request(SERVICE, number.to_string().into())).await {
        Ok(Ok(_)) => Answers::Came(1),
        Ok(Err(error)) if error.kind() == async_nats::client::RequestErrorKind::NoResponders => {
            Answers::Nobody
        }
        _ => Answers::None,
    }
}

/// By an inbox for this request alone, that would also see a second answer.
async fn ask_by_inbox(client: &Client, number: u64) -> Answers {
    let inbox = client.new_inbox();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return Answers::None };
    if client.publish_with_reply(SERVICE, inbox, number.to_string().into()).await.is_err() {
        return Answers::None;
    }
    let Ok(Some(first)) = timeout(REQUEST_TIMEOUT, answers.next()).await else { return Answers::None };
    if first.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
        return Answers::Nobody;
    }
    let second = timeout(Duration::from_millis(200), answers.next()).await;
    Answers::Came(if matches!(second, Ok(Some(_))) { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_back_and_a_damaged_one_is_seen() {
        for number in [0, 98, 99] {
            let text = payload("rust-1", number);
            assert_eq!(read(text.as_bytes()), ("rust-1".to_owned(), number));
            assert_eq!(read(&text.as_bytes()[1..]).0, "damaged");
        }
        assert_eq!(payload("rust-1", 99).len(), LARGE_BYTES);
    }
}
