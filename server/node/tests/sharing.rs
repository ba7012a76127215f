//! What accounts are promised that share subjects: mappings, imported streams, imported services, also when the
//! configuration changes and across servers. Seen through real sockets.

use config::{Config, Settings};
use node::Server;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(text: &str) -> Settings {
    let text = format!("listen: \"127.0.0.1:-1\"\n{text}");
    let checked = Settings::from_config(&Config::parse_text(&text).unwrap()).unwrap();
    checked.settings.validate().unwrap();
    checked.settings
}

fn start(text: &str) -> Server {
    Server::start(settings(text)).unwrap()
}

struct Peer {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Peer {
    /// A client that is logged in; user and password are the same.
    fn of(server: &Server, user: &str) -> Peer {
        let url = server.client_url();
        let stream = TcpStream::connect(url.strip_prefix("nats://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Peer { stream, read: Vec::new() };
        peer.until("\r\n");
        let login = format!("\"user\":\"{user}\",\"pass\":\"{user}\"");
        peer.send(&format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true,{login}}}\r\n"
        ));
        peer.sync();
        peer
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// What comes up to the answer to a PING.
    fn sync(&mut self) -> String {
        self.send("PING\r\n");
        self.until("PONG\r\n").replace("PONG\r\n", "").replace("PING\r\n", "")
    }

    /// Reads up to and with `end`.
    fn until(&mut self, end: &str) -> String {
        let mut chunk = vec![0; 1 << 16];
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|w| w == end.as_bytes()) {
                let rest = self.read.split_off(at + end.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned();
            }
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "the server hung up; read so far: {}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&chunk[..count]);
        }
    }

    fn publish(&mut self, subject: &str, payload: &str) {
        self.send(&format!("PUB {subject} {}\r\n{payload}\r\n", payload.len()));
    }

    fn request(&mut self, subject: &str, reply: &str, payload: &str) {
        self.publish(&format!("{subject} {reply}"), payload);
    }
}

/// The reply subject of a request that a service read.
fn reply_of(request: &str) -> String {
    let words = request.split_whitespace();
    words.into_iter().find(|word| word.starts_with("_R_.")).expect(request).to_owned()
}

fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const ACCOUNTS: &str = "accounts {
    A { users: [{user: a, password: a}], exports: [
        {stream: \"s.>\"}, {service: \"one\"}, {service: \"many.*\", response: stream},
        {service: \"slow\", threshold: \"200ms\", latency: {sampling: 100, subject: report}},
        {service: \"measured\", latency: report} ] }
    B { users: [{user: b, password: b}], imports: [
        {stream: {account: A, subject: \"s.>\"}, prefix: from.a},
        {service: {account: A, subject: one}, to: a.one, share: true},
        {service: {account: A, subject: \"many.*\"}},
        {service: {account: A, subject: slow}}, {service: {account: A, subject: measured}} ] }
    C { users: [{user: c, password: c}] } }";

#[test]
fn mappings_rewrite_what_clients_publish() {
    let server = start(
        "mappings: { orders: work.orders, \"by.*.*\": \"to.{{wildcard(2)}}.$1\", \"ring\": ring2, ring2: ring }
         authorization: { users: [{user: a, password: a, permissions: {publish: {deny: [\"to.secret.>\"]}}}] }",
    );
    let mut a = Peer::of(&server, "a");
    a.send("SUB > 1\r\n");
    a.request("orders", "answer", "x");
    a.publish("by.one.two", "y");
    assert_eq!(a.sync(), "MSG work.orders 1 answer 1\r\nx\r\nMSG to.two.one 1 1\r\ny\r\n");
    // applied once, and permissions are asked about the outcome
    a.publish("ring", "z");
    a.publish("by.x.secret", "s");
    let seen = a.sync();
    assert_eq!(seen, "MSG ring2 1 1\r\nz\r\n-ERR 'Permissions Violation for Publish to \"to.secret.x\"'\r\n");
}

#[test]
fn weighted_mappings_share_and_lose_as_they_say() {
    let server = start("mappings: { w: [{destination: w1, weight: 50}, {destination: w, weight: 30}] }");
    let mut peer = Peer::of(&server, "");
    peer.send("SUB * 1\r\n");
    peer.send(&"PUB w 1\r\nx\r\n".repeat(2000));
    let seen = peer.sync();
    let (moved, stayed) = (seen.matches("MSG w1 1").count(), seen.matches("MSG w 1").count());
    assert!((900..1100).contains(&moved) && (500..700).contains(&stayed), "{moved} {stayed}");
}

#[test]
fn an_imported_stream_is_heard_under_its_local_subject_only() {
    let server = start(ACCOUNTS);
    let (mut a, mut b, mut c) = (Peer::of(&server, "a"), Peer::of(&server, "b"), Peer::of(&server, "c"));
    b.send("SUB from.a.s.*.x 1\r\nSUB s.> 2\r\nSUB from.> group 3\r\n");
    b.sync();
    c.send("SUB > 1\r\n");
    c.sync();
    a.publish("s.1.x", "one");
    a.publish("s.2", "two");
    a.sync();
    let seen = b.sync();
    assert_eq!(
        seen,
        "MSG from.a.s.1.x 1 3\r\none\r\nMSG from.a.s.1.x 3 3\r\none\r\nMSG from.a.s.2 3 3\r\ntwo\r\n"
    );
    assert_eq!(c.sync(), "");
    // a maximum counts there as well, and the end of a subscription is the end
    b.send("UNSUB 3\r\nUNSUB 1 2\r\n");
    b.sync();
    for _ in 0..3 {
        a.publish("s.3.x", "z");
    }
    a.sync();
    assert_eq!(b.sync(), "MSG from.a.s.3.x 1 1\r\nz\r\n");
}

#[test]
fn a_request_goes_to_an_imported_service_and_its_answer_comes_back() {
    let server = start(ACCOUNTS);
    let (mut a, mut b) = (Peer::of(&server, "a"), Peer::of(&server, "b"));
    b.send("SUB inbox.* 9\r\n");
    b.request("a.one", "inbox.0", "anybody?");
    assert!(b.sync().contains("NATS/1.0 503\r\nNats-Subject: a.one"), "nobody serves yet");
    a.send("SUB one workers 1\r\nSUB many.> 2\r\n");
    a.sync();
    b.request("a.one", "inbox.1", "hello");
    let request = a.until("hello\r\n");
    assert!(request.starts_with("HMSG one 1 _R_."), "{request}");
    assert!(request.contains("\"host\":\"127.0.0.1\"") && request.contains("\"acc\":\"B\""), "{request}");
    let reply = reply_of(&request);
    a.publish(&reply, "1");
    a.publish(&reply, "2");
    a.sync();
    assert_eq!(b.sync(), "MSG inbox.1 9 1\r\n1\r\n", "one answer to a request");
    // as many answers as the service gives, until an empty one
    b.request("many.things", "inbox.2", "hello");
    let request = a.until("hello\r\n");
    assert!(!request.contains("127.0.0.1"), "{request}");
    let reply = reply_of(&request);
    for payload in ["1", "2", "", "3"] {
        a.publish(&reply, payload);
    }
    a.sync();
    assert_eq!(b.sync(), "MSG inbox.2 9 1\r\n1\r\nMSG inbox.2 9 1\r\n2\r\nMSG inbox.2 9 0\r\n\r\n");
    // nobody can answer in the name of a server
    b.request("x", &reply, "forged");
    assert!(b.sync().contains("Permissions Violation for Publish with Reply of"));
}

#[test]
fn a_service_that_takes_too_long_is_reported_and_no_longer_waited_for() {
    let server = start(ACCOUNTS);
    let (mut a, mut b) = (Peer::of(&server, "a"), Peer::of(&server, "b"));
    b.send("SUB inbox.* 9\r\n");
    b.sync();
    a.send("SUB slow 1\r\nSUB measured 3\r\nSUB report 2\r\n");
    a.sync();
    b.request("measured", "inbox.1", "first");
    let reply = reply_of(&a.until("first\r\n"));
    a.publish(&reply, "in time");
    let report = a.until("}\r\n");
    assert!(report.contains("\"status\":200") && report.contains("\"requestor\":{\"acc\":\"B\""), "{report}");
    assert_eq!(b.until("in time\r\n"), "MSG inbox.1 9 7\r\nin time\r\n");
    b.request("slow", "inbox.2", "second");
    let reply = reply_of(&a.until("second\r\n"));
    let report = a.until("}\r\n");
    assert!(report.contains("\"status\":504,\"description\":\"Service Timeout\""), "{report}");
    a.publish(&reply, "too late");
    a.sync();
    assert_eq!(b.sync(), "");
    // who stops listening is not waited for either
    b.send("SUB other 10\r\n");
    b.request("slow", "other", "third");
    b.send("UNSUB 10\r\n");
    b.sync();
    a.until("third\r\n");
    let report = a.until("}\r\n");
    assert!(report.contains("\"status\":408,\"description\":\"Request Timeout\""), "{report}");
}

#[test]
fn a_reload_changes_what_live_subscriptions_and_publishers_share() {
    let without = "accounts { A { users: [{user: a, password: a}] }, B { users: [{user: b, password: b}] } }";
    let server = start(without);
    let (mut a, mut b) = (Peer::of(&server, "a"), Peer::of(&server, "b"));
    b.send("SUB from.a.> 1\r\n");
    b.sync();
    a.send("SUB one 1\r\n");
    a.publish("s.1", "x");
    a.sync();
    b.request("a.one", "r", "x");
    assert!(!b.sync().contains("from.a"));
    assert_eq!(a.sync(), "");
    server.reload(settings(ACCOUNTS)).unwrap();
    a.publish("s.1", "y");
    a.sync();
    assert_eq!(b.sync(), "MSG from.a.s.1 1 1\r\ny\r\n");
    b.publish("a.one", "request");
    a.until("request\r\n");
    server.reload(settings(without)).unwrap();
    a.publish("s.1", "z");
    a.sync();
    b.publish("a.one", "request");
    assert_eq!(b.sync(), "");
    assert_eq!(a.sync(), "");
}

#[test]
fn sharing_works_across_servers() {
    let member = |name: &str, seed: Option<&Server>| {
        let routes = seed.map_or_else(String::new, |seed| {
            let port = seed.monitor().varz().cluster.cluster_port;
            format!("routes: [\"nats://127.0.0.1:{port}\"]")
        });
        let cluster = format!("cluster {{ name: c, listen: \"127.0.0.1:-1\", {routes} }}");
        start(&format!("server_name: {name}\n{cluster}\n{ACCOUNTS}"))
    };
    let one = member("one", None);
    let two = member("two", Some(&one));
    for server in [&one, &two] {
        eventually("the mesh closes", || server.monitor().varz().remotes == 1);
    }
    let (mut a, mut b) = (Peer::of(&one, "a"), Peer::of(&two, "b"));
    a.send("SUB one 1\r\nSUB many.* workers 2\r\n");
    a.sync();
    b.send("SUB from.a.> 1\r\nSUB inbox.* 2\r\n");
    b.sync();
    let mut number = 0;
    eventually("the request and its answer find their way", || {
        number += 1;
        b.request("a.one", &format!("inbox.{number}"), "hello");
        !b.sync().contains("503")
    });
    let request = a.until("hello\r\n");
    assert!(request.contains("\"acc\":\"B\""), "{request}");
    a.publish(&reply_of(&request), "answer");
    assert_eq!(b.until("answer\r\n"), format!("MSG inbox.{number} 2 6\r\nanswer\r\n"));
    b.request("many.x", "inbox.q", "hello");
    let reply = reply_of(&a.until("hello\r\n"));
    a.publish(&reply, "1");
    a.publish(&reply, "2");
    b.until("MSG inbox.q 2 1\r\n1\r\nMSG inbox.q 2 1\r\n2\r\n");
    a.publish("s.news", "n");
    b.until("MSG from.a.s.news 1 1\r\nn\r\n");
    // both servers measure, and the report tells who answered
    a.send("SUB measured 3\r\nSUB report 4\r\n");
    a.sync();
    let mut far = Peer::of(&two, "a");
    eventually("interest arrives", || {
        far.publish("report", "{}");
        far.sync();
        !a.sync().is_empty()
    });
    std::thread::sleep(Duration::from_millis(100));
    a.sync();
    b.request("measured", "inbox.m", "measure me");
    let request = a.until("measure me\r\n");
    assert!(reply_of(&request).ends_with(".T"), "{request}");
    a.publish(&reply_of(&request), "measured");
    let report = a.until("}\r\n");
    assert!(report.contains("\"requestor\":{\"acc\":\"B\""), "{report}");
    assert!(report.contains("\"responder\":{") && report.contains("\"user\":\"a\""), "{report}");
}

#[test]
fn a_traced_request_is_followed_into_another_account_only_where_that_allows_it() {
    let server = start(
        "accounts {
            A { users: [{user: a, password: a}], exports: [{service: open, allow_trace: true}, {service: closed}] }
            B { users: [{user: b, password: b}], imports: [
                {service: {account: A, subject: open}}, {service: {account: A, subject: closed}}] } }",
    );
    let (mut a, mut b) = (Peer::of(&server, "a"), Peer::of(&server, "b"));
    a.send("SUB * 1\r\n");
    a.sync();
    b.send("SUB events 1\r\n");
    let traced = |subject: &str, only: &str| {
        let header = format!("NATS/1.0\r\nNats-Trace-Dest: events\r\n{only}\r\n");
        format!("HPUB {subject} {} {}\r\n{header}x\r\n", header.len(), header.len() + 1)
    };
    b.send(&traced("open", ""));
    let event = b.sync();
    assert!(
        event.contains(r#""type":"si""#) && event.contains(r#""acc":"A","from":"open","to":"open""#),
        "{event}"
    );
    assert!(event.contains(r#""type":"eg""#) && event.contains(r#""acc":"A","sub":"*""#), "{event}");
    assert!(a.sync().contains("Nats-Trace-Dest: _R_."), "events of other servers find their way back");
    b.send(&traced("closed", ""));
    let event = b.sync();
    assert!(event.contains(r#""type":"si""#) && !event.contains(r#""type":"eg""#), "{event}");
    assert!(a.sync().contains("Nats-Trace-Dest: trace disabled"));
    b.send(&traced("open", "Nats-Trace-Only: 1\r\n"));
    assert!(b.sync().contains(r#""type":"eg""#));
    assert_eq!(a.sync(), "", "what is only traced reaches nobody");
}
