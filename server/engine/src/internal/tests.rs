use super::*;
use broker::Mailbox;
use std::sync::atomic::AtomicUsize;

struct Silent;

impl Wake for Silent {
    fn wake(&self) {}
}

struct Bell(Arc<AtomicUsize>);

impl Wake for Bell {
    fn wake(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn internal() -> (Arc<Internal>, InternalWorker) {
    let broker = Broker::new(vec![Arc::new(Mailbox::new(Box::new(Silent)))], 7);
    let internal = Internal::new(broker, Box::new(Silent), "$SYS._INBOX.NID".into(), 9);
    let worker = InternalWorker::new(internal.clone());
    (internal, worker)
}

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log) -> Handler {
    let log = log.clone();
    Arc::new(move |received| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (headers, payload) = (text(received.headers), text(received.payload));
        log.lock().push(format!("{} {:?} {headers:?} {payload}", received.subject, received.reply));
    })
}

#[test]
fn a_message_reaches_the_handlers_of_its_account_only() {
    let (internal, mut worker) = internal();
    let (publisher, reader, stranger) = (internal.client("A"), internal.client("A"), internal.client("B"));
    let (log, other) = (Log::default(), Log::default());
    let sid = reader.subscribe("a.*", None, note(&log));
    stranger.subscribe(">", None, note(&other));
    assert!(publisher.publish("a.b", "re", b"NATS/1.0\r\nk: v\r\n\r\n", b"hi"));
    let large = vec![b'x'; 100_000];
    assert!(publisher.publish("a.c", "", b"", &large));
    worker.run(1);
    {
        let log = log.lock();
        assert_eq!(log[0], r#"a.b "re" "NATS/1.0\r\nk: v\r\n\r\n" hi"#);
        assert!(log[1].len() > 100_000, "a large message comes whole");
    }
    assert!(other.lock().is_empty());
    reader.unsubscribe(sid);
    publisher.publish("a.b", "", b"", b"late");
    worker.run(2);
    assert_eq!(log.lock().len(), 2);
}

#[test]
fn what_is_no_subject_is_not_published() {
    let (internal, _worker) = internal();
    let client = internal.client("A");
    assert!(!client.publish("a..b", "", b"", b""));
    assert!(!client.publish("a.*", "", b"", b""));
    assert!(!client.publish("a", "b c", b"", b""));
}

#[test]
fn a_request_ends_once_by_answer_by_silence_or_at_once_without_listeners() {
    let (internal, mut worker) = internal();
    let (client, service) = (internal.client("A"), internal.client("A"));
    service.subscribe("echo", None, Arc::new(|received| received.answer(received.payload)));
    service.subscribe("mute", None, Arc::new(|_| {}));
    let log = Log::default();
    for subject in ["echo", "mute", "nobody"] {
        let log = log.clone();
        client.request(subject, b"", b"ping", 50, move |outcome| {
            log.lock().push(match outcome {
                Outcome::Answered(answer) => {
                    format!("{subject}: {}", String::from_utf8_lossy(answer.payload))
                }
                Outcome::NoResponders => format!("{subject}: nobody"),
                Outcome::TimedOut => format!("{subject}: late"),
            });
        });
    }
    assert_eq!(worker.run(10), Some(50));
    let mut seen = std::mem::take(&mut *log.lock());
    seen.sort();
    assert_eq!(seen, ["echo: ping", "nobody: nobody"]);
    worker.run(50);
    assert_eq!(*log.lock(), ["mute: late"]);
}

#[test]
fn timers_run_in_order_when_their_time_has_come() {
    let (internal, mut worker) = internal();
    let log = Arc::new(Mutex::new(Vec::new()));
    for nanos in [30, 10, 20] {
        let log = log.clone();
        internal.at(nanos, move |now| log.lock().push((nanos, now)));
    }
    assert_eq!(worker.run(5), Some(10));
    assert_eq!(worker.run(25), Some(30));
    assert_eq!(*log.lock(), [(10, 25), (20, 25)]);
}

#[test]
fn what_waits_is_bounded_and_one_wake_serves_many() {
    let bell = Arc::new(AtomicUsize::new(0));
    let broker = Broker::new(vec![Arc::new(Mailbox::new(Box::new(Silent)))], 7);
    let internal = Internal::new(broker, Box::new(Bell(bell.clone())), "inbox".into(), 9);
    let client = internal.client("A");
    let payload = vec![0; 1 << 20];
    let taken = (0..100).filter(|_| client.publish("a", "", b"", &payload)).count();
    assert_eq!(taken, 2 * WAITING_BYTES_MAX / (payload.len() + 200), "a full queue refuses");
    assert_eq!((bell.load(Relaxed), internal.dropped()), (1, 100 - taken as u64));
}

#[test]
fn a_closed_client_leaves_nothing_behind() {
    let (internal, mut worker) = internal();
    let (client, publisher) = (internal.client("A"), internal.client("A"));
    let log = Log::default();
    client.subscribe("a", None, note(&log));
    publisher.publish("a", "", b"", b"");
    client.close();
    worker.run(1);
    assert!(log.lock().is_empty());
    assert_eq!(internal.broker.account("A").read(|interest| interest.len()), 0);
    assert_eq!(internal.broker.links().len(), 1);
    drop(worker);
    assert!(!publisher.publish("a", "", b"", b""), "nobody would publish it");
}

#[test]
fn a_subscription_for_this_server_is_not_told_to_others() {
    let (internal, mut worker) = internal();
    let (client, publisher) = (internal.client("A"), internal.client("A"));
    let log = Log::default();
    let sid = client.subscribe_here("here", note(&log));
    client.subscribe("everywhere", None, note(&log));
    let mut told = Vec::new();
    let account = internal.broker.account("A");
    account.read(|interest| interest.local(|filter, _, _| told.push(filter.to_vec())));
    assert_eq!(told, [b"everywhere"]);
    publisher.publish("here", "", b"", b"");
    worker.run(1);
    assert_eq!(log.lock().len(), 1);
    client.unsubscribe(sid);
    assert_eq!(account.read(|interest| interest.len()), 1);
}
