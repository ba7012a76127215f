//! What a user of the monitor port and of the system account is promised: which connections a request finds, in
//! which order, and what is refused.

mod fake;

use std::time::Duration;

use fake::{Fake, at, bare, client, cluster, subscription};
use monitor::healthz::Readiness;
use monitor::request::{Action, Call, ServerFilter, answer, decode, subjects};
use monitor::source::{CloseReason, ClosedConnection, ClosedRing, Connection, MessagesBytes};
use monitor::{Response, Source, respond};
use serde_json::{Value, json};

fn get(source: &Fake, target: &str) -> Response {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    respond(source, "", path, query)
}

fn document(source: &Fake, target: &str) -> Value {
    let response = get(source, target);
    assert_eq!(response.status, 200, "{target}: {}", String::from_utf8_lossy(&response.body));
    assert_eq!(response.content_type, "application/json");
    assert!(response.any_origin, "scripts of other origins may read {target}");
    serde_json::from_slice(&response.body).unwrap()
}

fn refusal(source: &Fake, target: &str) -> String {
    let response = get(source, target);
    assert_eq!(response.status, 400, "{target}");
    assert_eq!(response.content_type, "text/plain; charset=utf-8");
    assert!(!response.any_origin);
    String::from_utf8(response.body).unwrap()
}

fn cids(source: &Fake, target: &str) -> Vec<u64> {
    document(source, target)["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| each["cid"].as_u64().unwrap())
        .collect()
}

/// Three connections; each order by a number differs from that by cid.
fn three() -> Fake {
    let count = |messages, bytes| MessagesBytes { messages, bytes };
    let connection = |cid, small: u64, large: u64| Connection {
        cid,
        user: format!("user{cid}"),
        mqtt_client: format!("mqtt{cid}"),
        subscription_count: u32::try_from(small).unwrap(),
        pending_bytes: usize::try_from(large).unwrap(),
        sent: count(small, large),
        received: count(large, small),
        rtt: Duration::from_micros(small),
        start: at(i64::try_from(100 * large).unwrap()),
        last_activity: at(i64::try_from(small).unwrap()),
        ..client(cid)
    };
    let closed = |connection, stop, reason| ClosedConnection { connection, stop: at(stop), reason };
    let mut ring = ClosedRing::default();
    ring.push(closed(connection(10, 1, 1), 30, CloseReason::WriteError));
    ring.push(closed(connection(11, 2, 2), 10, CloseReason::ClientClosed));
    ring.push(closed(connection(12, 3, 3), 20, CloseReason::StaleConnection));
    Fake {
        connections: vec![connection(3, 2, 30), connection(1, 1, 20), connection(2, 3, 10)],
        closed: ring,
        ..cluster()
    }
}

#[test]
fn connections_are_sorted_in_fourteen_ways() {
    let source = three();
    for (sort, expected) in [
        ("", [1, 2, 3]),
        ("cid", [1, 2, 3]),
        ("start", [1, 2, 3]),
        ("subs", [2, 3, 1]),
        ("pending", [3, 1, 2]),
        ("msgs_to", [2, 3, 1]),
        ("msgs_from", [3, 1, 2]),
        ("bytes_to", [3, 1, 2]),
        ("bytes_from", [2, 3, 1]),
        ("last", [1, 3, 2]),
        ("idle", [2, 3, 1]),
        ("uptime", [2, 1, 3]),
        ("rtt", [2, 3, 1]),
    ] {
        assert_eq!(cids(&source, &format!("/connz?sort={sort}")), expected, "{sort}");
    }
    assert_eq!(cids(&source, "/connz?state=closed&sort=stop"), [11, 12, 10], "the latest end first");
    assert_eq!(cids(&source, "/connz?state=closed&sort=reason"), [11, 12, 10], "reasons by alphabet");
}

#[test]
fn pages_count_all_but_show_some() {
    let source = three();
    let page = document(&source, "/connz?offset=1&limit=1");
    assert_eq!(
        (&page["total"], &page["num_connections"], &page["offset"], &page["limit"]),
        (&json!(3), &json!(1), &json!(1), &json!(1))
    );
    assert_eq!(cids(&source, "/connz?offset=1&limit=1"), [2]);
    assert_eq!(cids(&source, "/connz?offset=7"), [0; 0]);
    assert_eq!(document(&source, "/connz?limit=-1")["limit"], 1024);
}

#[test]
fn state_chooses_open_closed_or_both() {
    let source = three();
    assert_eq!(cids(&source, "/connz?state=open"), [1, 2, 3]);
    assert_eq!(cids(&source, "/connz?state=CLOSED"), [10, 11, 12]);
    assert_eq!(cids(&source, "/connz?state=all"), [1, 2, 3, 10, 11, 12]);
    assert_eq!(document(&source, "/connz?state=any")["total"], 6);
    assert_eq!(refusal(&source, "/connz?state=gone"), "Error decoding state for gone");
    assert_eq!(refusal(&source, "/connz?sort=stop"), "sort by stop only valid on closed connections");
    assert_eq!(
        refusal(&source, "/connz?sort=reason&state=any"),
        "sort by reason only valid on closed connections"
    );
    assert_eq!(refusal(&source, "/connz?sort=zz"), "invalid sorting option: zz");
}

#[test]
fn filters_choose_connections() {
    let mut source = three();
    assert_eq!(cids(&source, "/connz?cid=2"), [2]);
    assert_eq!(cids(&source, "/connz?cid=11"), [0; 0], "it is closed");
    assert_eq!(cids(&source, "/connz?cid=11&state=any"), [11]);
    assert_eq!(cids(&source, "/connz?user=user3"), [3]);
    assert_eq!(cids(&source, "/connz?cid=2&user=user3"), [0; 0]);
    assert_eq!(cids(&source, "/connz?mqtt_client=mqtt1"), [1]);
    assert_eq!(document(&source, "/connz?user=user3")["total"], 3, "the total knows account and state only");

    source.connections[0].account = "B".into();
    source.connections[0].subscriptions = vec![subscription("B", "orders.*", "", 0)];
    assert_eq!(cids(&source, "/connz?acc=B"), [3]);
    assert_eq!(cids(&source, "/connz?acc=B&filter_subject=orders.new"), [3]);
    assert_eq!(cids(&source, "/connz?acc=B&filter_subject=bills"), [0; 0]);
    assert_eq!(
        refusal(&source, "/connz?filter_subject=bills"),
        "filter by subject only valid with account filtering"
    );
    assert_eq!(document(&source, "/connz?acc=NN")["server_id"], "", "as nats-server for an unknown account");
}

#[test]
fn users_and_certificates_are_shown_only_if_asked_for() {
    let source = cluster();
    let shown = |target: &str| document(&source, target)["connections"][0].clone();
    let plain = shown("/connz");
    for hidden in
        ["authorized_user", "account", "tls_peer_certs", "subscriptions_list", "subscriptions_list_detail"]
    {
        assert_eq!(plain.get(hidden), None, "{hidden}");
    }
    assert_eq!(shown("/connz?auth=1")["authorized_user"], "a");
    assert_eq!(shown("/connz?subs=1")["subscriptions_list"], json!(["svc.x", "foo"]));
    assert_eq!(shown("/connz?subs=detail")["subscriptions_list_detail"][1]["max"], 10);
}

#[test]
fn the_ring_of_closed_connections_forgets_the_oldest() {
    let mut ring = ClosedRing::new(2);
    for cid in 1..=3 {
        ring.push(ClosedConnection { connection: client(cid), ..ClosedConnection::default() });
    }
    let source = Fake { closed: ring, ..cluster() };
    assert_eq!(cids(&source, "/connz?state=closed"), [2, 3]);
}

#[test]
fn subscriptions_are_listed_tested_and_paged() {
    let source = cluster();
    assert_eq!(document(&source, "/subsz").get("subscriptions_list"), None);
    assert_eq!(document(&source, "/subsz?subs=1")["total"], 4);
    let found = document(&source, "/subscriptionsz?subs=1&test=p.str.x");
    assert_eq!(found["subscriptions_list"][0]["account"], "B");
    assert_eq!(found["total"], 1);
    assert_eq!(document(&source, "/subsz?subs=1&acc=B")["total"], 1);
    let page = document(&source, "/subsz?subs=1&offset=1&limit=2");
    assert_eq!((page["subscriptions_list"].as_array().unwrap().len(), &page["total"]), (2, &json!(4)));
    assert_eq!(
        refusal(&source, "/subsz?test=a.*"),
        "invalid test subject, must be valid publish subject: a.*"
    );
}

#[test]
fn numbers_of_indexes_are_added_up() {
    let mut source = cluster();
    for (number, index) in (1..).zip(source.indexes.values_mut()) {
        index.subscriptions = number;
        index.matches = 10;
        index.cache_hits = number;
        index.fanout_max = number;
        index.fanout_sum = 4 * number;
        index.fanout_subjects = 2 * number;
    }
    let found = document(&source, "/subsz");
    assert_eq!(found["num_subscriptions"], 6);
    assert_eq!(found["cache_hit_rate"], 0.2);
    assert_eq!(found["max_fanout"], 3);
    assert_eq!(found["avg_fanout"], 2);
    assert_eq!(document(&source, "/subsz?acc=B")["num_subscriptions"], 2);
}

#[test]
fn unused_accounts_are_left_out_unless_asked_for() {
    let source = cluster();
    let names = |target: &str| -> Vec<String> {
        let accounts = document(&source, target)["account_statz"].clone();
        accounts.as_array().unwrap().iter().map(|each| each["acc"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/accstatz"), ["A"]);
    assert_eq!(names("/accstatz?unused=1"), ["A", "B", "SYS"]);
    assert_eq!(refusal(&source, "/accountz?acc=NN"), "Account NN does not exist");
}

#[test]
fn health_tells_why_not() {
    let mut source = bare();
    assert_eq!(get(&source, "/healthz?js-enabled-only=1").body, br#"{"status":"ok"}"#);
    assert_eq!(get(&source, "/healthz?stream=x").status, 400);
    assert_eq!(get(&source, "/readyz").status, 200);

    source.readiness = Readiness::NotReady("route".into());
    let response = get(&source, "/healthz");
    assert_eq!((response.status, response.content_type), (500, "application/json"));
    assert_eq!(
        String::from_utf8(response.body).unwrap(),
        r#"{"status":"error","error":"failed to be ready for connections after 1ms: route"}"#
    );
    let details: Value = serde_json::from_slice(&get(&source, "/healthz?details=1").body).unwrap();
    assert_eq!(details["errors"][0]["type"], "CONNECTION");
    assert_eq!(get(&source, "/readyz").status, 503);
    assert_eq!(get(&source, "/livez").status, 200, "a server that is not ready must not be restarted for it");
}

#[test]
fn paths_below_a_base_path() {
    let source = bare();
    let status = |base: &str, path: &str| respond(&source, base, path, "").status;
    assert_eq!(status("", "/"), 200);
    assert_eq!(status("/nats", "/nats"), 200);
    assert_eq!(status("nats/", "/nats/varz"), 200);
    for (base, path) in
        [("/nats", "/varz"), ("/nats", "/natsvarz"), ("/nats", "/nats/"), ("", "/nope"), ("", "/varz/")]
    {
        assert_eq!(status(base, path), 404, "{path} with {base:?}");
    }
    let redirect = respond(&source, "", "//varz", "a=b");
    assert_eq!((redirect.status, redirect.location.as_deref()), (307, Some("/varz?a=b")));
    assert_eq!(get(&source, "/nope").body, b"404 page not found\n");
}

#[test]
fn requests_are_counted_by_endpoint() {
    let source = bare();
    get(&source, "/connz");
    get(&source, "/connz?sort=zz");
    get(&source, "/subscriptionsz");
    get(&source, "/nope");
    let counts = document(&source, "/varz")["http_req_stats"].clone();
    assert_eq!(counts, json!({"/connz": 2, "/subsz": 1, "/varz": 1}));
}

#[test]
fn metrics_have_the_names_of_the_exporter() {
    let mut source = cluster();
    source.varz.connections = 7;
    source.varz.start = at(10);
    source.indexes.values_mut().next().unwrap().subscriptions = 4;
    source.account_statistics[0].sent.total.messages = 5;
    get(&source, "/connz");
    let response = get(&source, "/metrics");
    assert!(response.content_type.starts_with("application/openmetrics-text"));
    let text = String::from_utf8(response.body).unwrap();
    for line in [
        "# TYPE gnatsd_varz_connections gauge",
        "gnatsd_varz_connections{server_id=\"NONE\"} 7.0",
        "gnatsd_varz_start{server_id=\"NONE\"} 1795256723000.0",
        "gnatsd_varz_server_name{server_id=\"NONE\",value=\"one\"} 1.0",
        "gnatsd_subsz_num_subscriptions{server_id=\"NONE\"} 4.0",
        "gnatsd_varz_slow_consumer_stats_clients{server_id=\"NONE\"} 0.0",
        "gnatsd_varz_http_req_stats_connz{server_id=\"NONE\"} 1.0",
        "gnatsd_accstatz_sent_messages{server_id=\"NONE\",account=\"A\",account_id=\"A\",account_name=\"A\"} 5.0",
        "gnatsd_routez_pending_size{server_id=\"NONE\",rid=\"7\",remote_name=\"two\",account=\"\"} 0.0",
        "gnatsd_healthz_status{server_id=\"NONE\"} 0.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let families: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let distinct: std::collections::BTreeSet<_> = families.iter().collect();
    assert_eq!(families.len(), distinct.len(), "a family must not appear twice");
}

#[test]
fn subjects_of_requests_are_understood() {
    assert_eq!(Call::parse("$SYS.REQ.SERVER.OTHER.VARZ", "ME"), None);
    assert_eq!(
        Call::parse("$SYS.REQ.SERVER.PING.KICK", "ME"),
        None,
        "only a server by its id is told to act"
    );
    assert_eq!(Call::parse("$SYS.REQ.SERVER.ME.KICK", "ME"), Some(Call::Act(Action::Kick)));
    assert_eq!(Call::parse("$SYS.REQ.SERVER.ME.VARZ.more", "ME"), None);
    assert_eq!(Call::parse("$SYS.REQ.ACCOUNT.A.CONNS", "ME"), Some(Call::Act(Action::Connections("A"))));
    for subject in subjects("ME") {
        let literal = subject.replace('*', "A");
        assert!(Call::parse(&literal, "ME").is_some(), "{subject} is subscribed to but not understood");
    }
}

#[test]
fn requests_pick_servers() {
    let source = cluster();
    let picked = |payload: Value| {
        let filter: ServerFilter = decode(payload.to_string().as_bytes()).unwrap();
        filter.picks(&source.identity())
    };
    assert!(picked(json!({})));
    assert!(picked(Value::Null));
    assert!(picked(json!({"server_name": "on", "cluster": "C", "host": "127"})));
    assert!(!picked(json!({"server_name": "on", "exact_match": true})));
    assert!(picked(json!({"server_name": "one", "exact_match": true})));
    assert!(picked(json!({"tags": [" A:B "]})));
    assert!(!picked(json!({"tags": ["a:b", "c"]})));
    assert!(!picked(json!({"domain": "hub"})));

    let call = Call::parse("$SYS.REQ.SERVER.PING.VARZ", "NONE").unwrap();
    assert!(answer(&source, call, br#"{"server_name":"two"}"#, 1).is_none(), "the others keep silent");
}

#[test]
fn account_requests_see_that_account_only() {
    let mut source = three();
    source.connections[0].account = "B".into();
    let ask = |subject: &str, payload: &str| -> Option<Value> {
        let call = Call::parse(subject, "NONE").unwrap();
        answer(&source, call, payload.as_bytes(), 1).map(|text| serde_json::from_slice(&text).unwrap())
    };
    let connz = ask("$SYS.REQ.ACCOUNT.B.CONNZ", r#"{"acc":"A"}"#).unwrap();
    assert_eq!(connz["data"]["connections"][0]["cid"], 3, "the subject wins over the payload");
    assert_eq!(connz["data"]["total"], 1);
    assert_eq!(ask("$SYS.REQ.ACCOUNT.B.SUBSZ", "").unwrap()["data"]["total"], 1);
    assert_eq!(ask("$SYS.REQ.ACCOUNT.B.STATZ", ""), None, "no connections, no answer");
    assert!(ask("$SYS.REQ.ACCOUNT.B.STATZ", r#"{"include_unused":true}"#).is_some());
    assert_eq!(ask("$SYS.REQ.ACCOUNT.PING.STATZ", "").unwrap()["data"]["account_statz"][0]["acc"], "A");
    assert_eq!(ask("$SYS.REQ.SERVER.NONE.JSZ", r#"{"leader_only":true}"#), None);
    let closed = ask("$SYS.REQ.SERVER.NONE.CONNZ", r#"{"state":1,"sort":"stop"}"#).unwrap();
    assert_eq!(closed["data"]["connections"][0]["reason"], "Client Closed");
}
