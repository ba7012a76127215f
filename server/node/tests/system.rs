//! The system account as its users and the users of other accounts meet it.

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use support::{Peer, eventually, start};

const ACCOUNTS: &str = r#"
    server_name: "alpha"
    accounts {
        A: { users: [{ user: "ann", password: "a" }] }
        SYS: { users: [{ user: "sys", password: "s" }] }
    }
    system_account: SYS
"#;

fn login(server: &node::Server, user: &str, password: &str) -> Peer {
    let mut peer = Peer::new(server);
    peer.connect(json!({"user": user, "pass": password, "protocol": 1, "no_responders": true, "name": user}));
    peer.until("PONG\r\n");
    peer.sync();
    peer
}

/// Asks and reads the answer as JSON.
fn ask(peer: &mut Peer, subject: &str, payload: &str) -> Value {
    peer.send(format!(
        "SUB answer 77\r\nPUB {subject} answer {}\r\n{payload}\r\nUNSUB 77 1\r\n",
        payload.len()
    ));
    let head = loop {
        let line = peer.until("\r\n");
        if line.contains("MSG answer 77") {
            break line;
        }
    };
    assert!(head.starts_with("MSG "), "{head}");
    serde_json::from_str(peer.until("\r\n").trim_end()).unwrap()
}

/// The next message on a subscription, by subject and payload.
fn next(peer: &mut Peer) -> (String, Value) {
    loop {
        let line = peer.until("\r\n");
        if let Some(rest) = line.strip_prefix("MSG ") {
            let subject = rest.split(' ').next().unwrap().to_owned();
            return (subject, serde_json::from_str(peer.until("\r\n").trim_end()).unwrap());
        }
    }
}

#[test]
fn a_user_of_the_system_account_finds_servers_and_reads_their_documents() {
    let server = start(ACCOUNTS);
    let mut system = login(&server, "sys", "s");
    let _ann = login(&server, "ann", "a");
    let found = ask(&mut system, "$SYS.REQ.SERVER.PING.IDZ", "");
    assert_eq!(found["name"], "alpha");
    let id = found["id"].as_str().unwrap().to_owned();
    let connections = ask(&mut system, &format!("$SYS.REQ.SERVER.{id}.CONNZ"), r#"{"acc":"A"}"#);
    assert_eq!(connections["server"]["id"], id.as_str());
    assert_eq!(connections["data"]["connections"][0]["name"], "ann");
    let account = ask(&mut system, "$SYS.REQ.ACCOUNT.A.INFO", "");
    assert_eq!(account["data"]["client_connections"], 1);
    // a filter for another server: nobody answers
    system.send("SUB answer 1\r\nPUB $SYS.REQ.SERVER.PING.VARZ answer 22\r\n{\"server_name\":\"beta\"}\r\n");
    assert_eq!(ask(&mut system, "$SYS.REQ.SERVER.PING.STATSZ", "")["statsz"]["connections"], 2);
}

#[test]
fn other_accounts_neither_hear_nor_reach_the_system_account() {
    let server = start(ACCOUNTS);
    let mut ann = login(&server, "ann", "a");
    ann.send("SUB $SYS.> 1\r\nSUB > 2\r\nSUB inbox.* 3\r\n");
    ann.sync();
    let mut system = login(&server, "sys", "s");
    let id = ask(&mut system, "$SYS.REQ.SERVER.PING.IDZ", "")["id"].as_str().unwrap().to_owned();
    for subject in [format!("$SYS.REQ.SERVER.{id}.KICK"), "$SYS.REQ.SERVER.PING.VARZ".into()] {
        ann.send(format!("PUB {subject} inbox.1 9\r\n{{\"cid\":1}}\r\n"));
    }
    drop(login(&server, "ann", "a"));
    ask(&mut system, "$SYS.REQ.SERVER.PING.STATSZ", "");
    let heard = ann.sync();
    let own = heard.matches("MSG $SYS.REQ.SERVER.").count();
    assert_eq!(own, 4, "its own two messages by two subscriptions: {heard}");
    assert_eq!(heard.matches("MSG ").count(), own, "and nothing else: {heard}");
}

#[test]
fn the_coming_and_going_of_clients_is_told_in_order() {
    let server = start(ACCOUNTS);
    let mut system = login(&server, "sys", "s");
    system.send("SUB $SYS.ACCOUNT.A.> 1\r\nSUB $SYS.SERVER.*.CLIENT.AUTH.ERR 2\r\n");
    system.sync();
    let mut ann = Some(login(&server, "ann", "a"));
    let expected = ["SERVER.CONNS", "CONNECT", "SERVER.CONNS", "DISCONNECT"];
    for (place, expected) in expected.into_iter().enumerate() {
        if place == 2 {
            ann = None;
        }
        let (subject, event) = next(&mut system);
        assert_eq!(subject, format!("$SYS.ACCOUNT.A.{expected}"), "{place}: {event}");
        match place {
            0 => assert_eq!(event["conns"], 1),
            1 => {
                assert_eq!((&event["client"]["user"], &event["client"]["acc"]), (&json!("ann"), &json!("A")))
            }
            2 => assert_eq!(event["conns"], 0),
            _ => assert_eq!(event["reason"], "Client Closed"),
        }
    }
    drop(ann);
    let mut wrong = Peer::new(&server);
    wrong.connect(json!({"user": "ann", "pass": "secret"}));
    assert!(wrong.until_closed().contains("Authorization Violation"));
    let (_, event) = next(&mut system);
    assert_eq!(event["reason"], "Authentication Failure");
    assert_eq!(event["client"]["user"], "ann");
    assert!(!event.to_string().contains("secret"), "{event}");
}

#[test]
fn a_client_is_kicked_or_sent_elsewhere_by_request() {
    let server = start(ACCOUNTS);
    let mut system = login(&server, "sys", "s");
    let mut ann = login(&server, "ann", "a");
    let found = ask(&mut system, "$SYS.REQ.SERVER.PING.CONNZ", r#"{"acc":"A"}"#);
    let (id, cid) = (found["server"]["id"].as_str().unwrap(), &found["data"]["connections"][0]["cid"]);
    let request = json!({ "cid": cid }).to_string();
    let done = ask(&mut system, &format!("$SYS.REQ.SERVER.{id}.LDM"), &request);
    assert_eq!(done.get("error"), None);
    assert!(ann.until("\r\n").contains(r#""ldm":true"#));
    ask(&mut system, &format!("$SYS.REQ.SERVER.{id}.KICK"), &request);
    ann.until_closed();
    let again = ask(&mut system, &format!("$SYS.REQ.SERVER.{id}.KICK"), &request);
    assert_eq!(again["error"]["description"], "no such client or leafnode id");
}

#[test]
fn a_reload_by_request_says_what_changed_or_why_nothing_did() {
    let server = start(ACCOUNTS);
    let mut system = login(&server, "sys", "s");
    let id = ask(&mut system, "$SYS.REQ.SERVER.PING.IDZ", "")["id"].as_str().unwrap().to_owned();
    let subject = format!("$SYS.REQ.SERVER.{id}.RELOAD");
    assert!(
        ask(&mut system, &subject, "")["error"]["description"].as_str().unwrap().contains("another program")
    );
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = fails.clone();
    server.on_reload_request(move || match flag.load(std::sync::atomic::Ordering::Relaxed) {
        false => Ok(vec!["Reloaded: max_payload = 1024".into()]),
        true => Err("config reload not supported for port".into()),
    });
    assert_eq!(ask(&mut system, &subject, "")["data"]["changes"][0], "Reloaded: max_payload = 1024");
    fails.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        ask(&mut system, &subject, "")["error"]["description"],
        "config reload not supported for port"
    );
}

#[test]
fn another_system_account_takes_services_and_events_over() {
    let server = start(ACCOUNTS);
    let mut old = login(&server, "sys", "s");
    ask(&mut old, "$SYS.REQ.SERVER.PING.IDZ", "");
    let changed = ACCOUNTS.replace("system_account: SYS", "system_account: A");
    server.reload(support::settings(&changed)).unwrap();
    let mut new = login(&server, "ann", "a");
    assert_eq!(ask(&mut new, "$SYS.REQ.SERVER.PING.IDZ", "")["name"], "alpha");
    let mut old = login(&server, "sys", "s");
    old.send("SUB answer 1\r\nPUB $SYS.REQ.SERVER.PING.IDZ answer 0\r\n\r\n");
    assert!(old.until("\r\n").contains("HMSG answer 1"), "no responders");
}

#[test]
fn a_server_that_stops_says_so() {
    let server = start(ACCOUNTS);
    let mut system = login(&server, "sys", "s");
    system.send("SUB $SYS.SERVER.*.SHUTDOWN 1\r\n");
    system.sync();
    server.stop();
    let (_, event) = next(&mut system);
    assert_eq!(event["name"], "alpha");
    server.wait();
}

/// Two servers, one cluster.
fn cluster() -> (node::Server, node::Server) {
    let text = |name: &str, routes: &str| {
        let accounts =
            ACCOUNTS.replace("alpha", name).replace("A: {", "A: { limits: { max_connections: 2 },");
        format!("{accounts}\ncluster {{ name: \"c\", listen: \"127.0.0.1:-1\", {routes} }}")
    };
    let alpha = start(&text("alpha", ""));
    let port = alpha.monitor().varz().cluster.cluster_port;
    let beta = start(&text("beta", &format!("routes: [\"nats://127.0.0.1:{port}\"]")));
    (alpha, beta)
}

#[test]
fn a_cluster_answers_as_one() {
    let (alpha, beta) = cluster();
    let mut system = login(&alpha, "sys", "s");
    eventually("both servers answer a ping", || {
        system.send("SUB pong 5\r\nPUB $SYS.REQ.SERVER.PING.IDZ pong 0\r\n\r\n");
        std::thread::sleep(std::time::Duration::from_millis(100));
        system.send("UNSUB 5\r\n");
        let heard = system.sync();
        heard.contains(r#""name":"alpha""#) && heard.contains(r#""name":"beta""#)
    });
    let mut ann = login(&beta, "ann", "a");
    ann.send("SUB greetings 1\r\nSUB greetings workers 2\r\n");
    ann.sync();
    eventually("the other server counts its subscriptions", || {
        let request = r#"{"acc":"A","subject":"greetings"}"#;
        ask(&mut system, "$SYS.REQ.ACCOUNT.NSUBS", request) == 2
    });
    eventually("servers know of each other", || {
        ask(&mut system, "$SYS.REQ.SERVER.PING.STATSZ", r#"{"server_name":"alpha"}"#)["statsz"]["active_servers"]
            == 2
    });
}

/// Each server's numbers name all of its routes: told to each other server, they are most of what an idle mesh sends.
#[test]
fn servers_do_not_ask_each_other_for_their_numbers() {
    let (alpha, _beta) = cluster();
    let mut system = login(&alpha, "sys", "s");
    let mut subscribers = |subject: &str| {
        let request = format!(r#"{{"server_name":"alpha","subscriptions":true,"test":"{subject}"}}"#);
        let answer = ask(&mut system, "$SYS.REQ.SERVER.PING.SUBSZ", &request);
        answer["data"]["total"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    };
    assert_eq!(subscribers("$SYS.SERVER.X.SHUTDOWN"), 1, "its own subscription");
    assert_eq!(subscribers("$SYS.SERVER.X.STATSZ"), 0);
}

#[test]
fn the_connections_of_an_account_are_limited_over_the_cluster() {
    let (alpha, beta) = cluster();
    let mut system = login(&beta, "sys", "s");
    system.send("SUB $SYS.ACCOUNT.A.SERVER.CONNS 1\r\n");
    eventually("servers know of each other", || {
        let mut other = login(&alpha, "sys", "s");
        ask(&mut other, "$SYS.REQ.SERVER.PING.STATSZ", r#"{"server_name":"alpha"}"#)["statsz"]["active_servers"]
            == 2
    });
    let _first = login(&alpha, "ann", "a");
    let (_, event) = next(&mut system);
    assert_eq!((&event["server"]["name"], &event["conns"]), (&json!("alpha"), &json!(1)));
    let _second = login(&beta, "ann", "a");
    let mut third = Peer::new(&beta);
    third.connect(json!({"user": "ann", "pass": "a", "protocol": 1}));
    assert!(third.until_closed().contains("-ERR 'maximum account active connections exceeded'"));
}

#[test]
fn a_user_asks_who_it_is_and_what_its_account_has() {
    let text = ACCOUNTS.replace(
        "{ user: \"ann\",",
        "{ user: \"bob\", password: \"b\" }, { user: \"ann\", permissions: { publish: { deny: \"x\" } },",
    );
    let server = start(&text);
    let mut ann = login(&server, "ann", "a");
    let me = ask(&mut ann, "$SYS.REQ.USER.INFO", "");
    assert_eq!((&me["data"]["user"], &me["data"]["account"]), (&json!("ann"), &json!("A")));
    assert_eq!(me["data"]["permissions"]["publish"]["deny"], json!(["x"]));
    let mut bob = login(&server, "bob", "b");
    assert_eq!(ask(&mut bob, "$SYS.REQ.USER.INFO", "")["data"].get("permissions"), None);
    let _system = login(&server, "sys", "s");
    // its own account's connections only
    assert_eq!(ask(&mut ann, "$SYS.REQ.SERVER.PING.CONNZ", r#"{"acc":"SYS"}"#)["data"]["num_connections"], 2);
    assert_eq!(ask(&mut ann, "$SYS.REQ.ACCOUNT.PING.STATZ", "")["data"]["account_statz"][0]["acc"], "A");
}

#[test]
fn a_limit_that_comes_down_closes_the_newest_connections() {
    let server = start(ACCOUNTS);
    let mut first = login(&server, "ann", "a");
    let mut second = login(&server, "ann", "a");
    let limited = ACCOUNTS.replace("A: {", "A: { limits: { max_connections: 1 },");
    server.reload(support::settings(&limited)).unwrap();
    assert!(second.until_closed().contains("-ERR 'maximum account active connections exceeded'"));
    let mut third = login(&server, "sys", "s");
    server.reload(support::settings(&format!("{ACCOUNTS}\nmax_connections: 1"))).unwrap();
    let answer = third.until_closed();
    assert!(answer.contains("-ERR 'maximum connections exceeded'"), "{answer:?}");
    first.sync();
}
