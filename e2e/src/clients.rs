//! Clients of a cluster, with the official library: what they learn, what happens to
//! them, and messages that are counted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::{Client, ConnectOptions, Event, Subscriber};
use futures::StreamExt;
use tokio::time::timeout;

/// How long a message may take that should arrive.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client and what happened to it since it was connected.
#[derive(Clone)]
pub struct Watched {
    pub client: Client,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Watched {
    /// Connects to one server, and to no other at first.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, ConnectOptions::new()).await
    }

    /// The same as somebody.
    pub async fn connect_as(url: &str, user: &str, password: &str) -> Result<Self> {
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
        Self::connect_with(url, options).await
    }

    /// The same with further options.
    pub async fn connect_with(url: &str, options: ConnectOptions) -> Result<Self> {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let options = options
            .connection_timeout(Duration::from_secs(3))
            .ping_interval(Duration::from_secs(2))
            .event_callback(move |event| {
                let sink = Arc::clone(&sink);
                async move {
                    if let Ok(mut events) = sink.lock() {
                        events.push(event);
                    }
                }
            });
        let client = options.connect(url).await.with_context(|| url.to_owned())?;
        Ok(Self { client, events })
    }

    /// How often an event came.
    pub fn count(&self, wanted: &Event) -> usize {
        let events = self.events.lock().map(|events| events.clone()).unwrap_or_default();
        events.iter().filter(|event| *event == wanted).count()
    }

    /// Name of the server it is connected to now.
    pub fn server_name(&self) -> String {
        self.client.server_info().server_name
    }

    /// Fails unless the INFO of its connect named so many servers: to these it can go.
    pub fn expect_known(&self, servers: usize) -> Result<()> {
        let known = self.client.server_info().connect_urls.len();
        ensure!(known == servers, "a client that just connected knows {known} servers, not {servers}");
        Ok(())
    }
}

/// Publishes until the first message comes back through a subscription: interest travels between
/// servers a moment after a SUB is answered, and core NATS keeps nothing for late subscribers.
pub async fn wait_for_interest(from: &Client, subject: &str, to: &mut Subscriber) -> Result<()> {
    for _ in 0..500 {
        from.publish(subject.to_owned(), "probe".into()).await?;
        from.flush().await?;
        if timeout(Duration::from_millis(20), to.next()).await.is_ok_and(|message| message.is_some()) {
            // Probes still under way are not to be taken for messages.
            while timeout(Duration::from_millis(100), to.next()).await.is_ok() {}
            return Ok(());
        }
    }
    bail!("nothing published to {subject} arrives")
}

/// Numbered messages from one client to another arrive once each and in order.
pub async fn exchange(from: &Client, to: &Client, subject: &str, count: u64) -> Result<()> {
    exchange_as(from, subject, to, subject, count).await
}

/// The same where they arrive under another subject: through an imported stream.
pub async fn exchange_as(
    from: &Client,
    subject: &str,
    to: &Client,
    arriving: &str,
    count: u64,
) -> Result<()> {
    let mut subscriber = to.subscribe(arriving.to_owned()).await?;
    to.flush().await?;
    wait_for_interest(from, subject, &mut subscriber).await?;
    for number in 0..count {
        from.publish(subject.to_owned(), number.to_string().into()).await?;
    }
    from.flush().await?;
    for number in 0..count {
        let message = timeout(MESSAGE_TIMEOUT, subscriber.next()).await;
        let message = message.with_context(|| format!("{subject}: message {number} did not come"))?;
        let message = message.context("subscription ended")?;
        ensure!(
            message.payload == number.to_string() && message.subject.as_str() == arriving,
            "{subject}: {:?} came in place of {number}",
            message.payload
        );
    }
    let more = timeout(Duration::from_millis(100), subscriber.next()).await;
    ensure!(more.is_err(), "{subject}: a message came that nobody published: {more:?}");
    Ok(())
}

/// Payloads of any size arrive whole, once each and in order.
pub async fn exchange_all(from: &Client, to: &Client, subject: &str, payloads: &[Vec<u8>]) -> Result<()> {
    let mut subscriber = to.subscribe(subject.to_owned()).await?;
    to.flush().await?;
    wait_for_interest(from, subject, &mut subscriber).await?;
    let publishing = async {
        for payload in payloads {
            from.publish(subject.to_owned(), payload.clone().into()).await?;
        }
        from.flush().await?;
        anyhow::Ok(())
    };
    let reading = async {
        for (number, payload) in payloads.iter().enumerate() {
            let message = timeout(MESSAGE_TIMEOUT, subscriber.next()).await;
            let message = message.with_context(|| format!("{subject}: message {number} did not come"))?;
            let message = message.context("subscription ended")?;
            ensure!(message.payload == *payload, "{subject}: message {number} is another one");
        }
        anyhow::Ok(())
    };
    let (published, read) = futures::join!(publishing, reading);
    published.and(read)
}

/// A request is answered across servers, and one that nobody serves fails at once.
pub async fn request(from: &Client, to: &Client, subject: &str) -> Result<()> {
    request_as(from, subject, to, subject).await
}

/// The same where it is served under another subject: through an imported service.
pub async fn request_as(from: &Client, subject: &str, to: &Client, served: &str) -> Result<()> {
    let mut requests = to.subscribe(served.to_owned()).await?;
    to.flush().await?;
    let responder = to.clone();
    let service = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                let mut answer = request.payload.to_vec();
                answer.reverse();
                responder.publish(reply, answer.into()).await?;
            }
        }
        anyhow::Ok(())
    });
    let mut answer = from.request(subject.to_owned(), "abc".into()).await;
    for _ in 0..100 {
        if answer.is_ok() {
            break; // before, the interest had not travelled yet
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = from.request(subject.to_owned(), "abc".into()).await;
    }
    service.abort();
    ensure!(answer?.payload == "cba", "{subject}: a wrong answer");
    let refused = from.request("nobody.serves.this", "x".into()).await;
    let refused = refused.err().context("a request that nobody serves was answered")?;
    ensure!(
        refused.kind() == async_nats::client::RequestErrorKind::NoResponders,
        "a request that nobody serves: {refused}, not no responders"
    );
    Ok(())
}

/// How many of `count` messages each of these clients got, which have so many members of one queue group.
pub async fn shares(
    from: &Client,
    members: &[(&Client, usize)],
    subject: &str,
    count: u64,
) -> Result<Vec<u64>> {
    let counters: Vec<_> = members.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
    let mut tasks = Vec::new();
    for ((client, number), counter) in members.iter().zip(&counters) {
        for _ in 0..*number {
            let mut messages = client.queue_subscribe(subject.to_owned(), "weighed".to_owned()).await?;
            let counter = Arc::clone(counter);
            tasks.push(tokio::spawn(async move {
                while messages.next().await.is_some() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        client.flush().await?;
    }
    let total = || counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum::<u64>();
    // the interest of all has travelled when it has stood still for a while
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..count {
        from.publish(subject.to_owned(), "x".into()).await?;
    }
    from.flush().await?;
    let arrived = timeout(MESSAGE_TIMEOUT, async {
        while total() < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let arrived = arrived.await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    ensure!(arrived.is_ok() && total() == count, "{subject}: {} of {count} messages came", total());
    Ok(counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect())
}

/// Of a queue group with a member on each server, one gets each message.
pub async fn share(from: &Client, members: &[Client], subject: &str, count: u64) -> Result<()> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for member in members {
        let mut messages = member.queue_subscribe(subject.to_owned(), "workers".to_owned()).await?;
        member.flush().await?;
        let seen = Arc::clone(&seen);
        tasks.push(tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if let Ok(mut seen) = seen.lock() {
                    seen.push(String::from_utf8_lossy(&message.payload).into_owned());
                }
            }
        }));
    }
    let numbers = || -> Vec<u64> {
        let seen = seen.lock().map(|seen| seen.clone()).unwrap_or_default();
        let mut numbers: Vec<u64> = seen.iter().filter_map(|text| text.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    };
    let arrived = || seen.lock().map(|seen| seen.len()).unwrap_or_default();
    while arrived() == 0 {
        from.publish(subject.to_owned(), "probe".into()).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for number in 0..count {
        from.publish(subject.to_owned(), number.to_string().into()).await?;
    }
    from.flush().await?;
    let _ = timeout(MESSAGE_TIMEOUT, async {
        while (numbers().len() as u64) < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let expected: Vec<u64> = (0..count).collect();
    let found = numbers();
    ensure!(found == expected, "{subject}: {} of {count} messages came, or some twice", found.len());
    Ok(())
}

/// Numbered publishes that go on until they are stopped, each batch flushed by a PONG.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    publisher: tokio::task::JoinHandle<Result<u64>>,
    subscriber: tokio::task::JoinHandle<Result<u64>>,
}

impl Traffic {
    /// Starts publishing from one client to another.
    pub async fn start(from: &Client, to: &Client, subject: &str) -> Result<Self> {
        let mut messages = to.subscribe(subject.to_owned()).await?;
        to.flush().await?;
        wait_for_interest(from, subject, &mut messages).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let publisher = {
            let (from, subject, stop) = (from.clone(), subject.to_owned(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut next = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..10 {
                        from.publish(subject.clone(), next.to_string().into()).await?;
                        next += 1;
                    }
                    from.flush().await?;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                from.publish(subject.clone(), "end".into()).await?;
                from.flush().await?;
                Ok(next)
            })
        };
        let subscriber = {
            let received = Arc::clone(&received);
            tokio::spawn(async move {
                let mut next = 0u64;
                loop {
                    let message = messages.next().await.context("subscription ended")?;
                    if message.payload == "end" {
                        return Ok(next);
                    }
                    let found = String::from_utf8_lossy(&message.payload).into_owned();
                    ensure!(
                        found == next.to_string(),
                        "message {found} came where {next} was due: lost, twice, or out of order"
                    );
                    next += 1;
                    received.store(next, Ordering::Relaxed);
                }
            })
        };
        Ok(Self { stop, received, publisher, subscriber })
    }

    /// Stops, and checks that all arrived, once each and in order; how many.
    pub async fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let published = timeout(Duration::from_secs(30), self.publisher).await;
        let published = published.context("the publisher hangs in a flush")???;
        let received = timeout(MESSAGE_TIMEOUT, self.subscriber).await;
        let received = received.with_context(|| {
            format!("of {published} messages only {} came", self.received.load(Ordering::Relaxed))
        })???;
        ensure!(received == published, "{published} published, {received} received");
        Ok(received)
    }
}
