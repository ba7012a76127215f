//! What the routes of one cluster are promised: compression, and a reload of their settings. Seen through real sockets.

mod support;

use node::Server;
use serde_json::json;
use std::collections::BTreeMap;
use support::{Peer, eventually, settings, start};

fn member(name: &str, compression: &str, seed: Option<&Server>) -> Server {
    let routes = seed.map_or_else(String::new, |seed| {
        format!("routes: [\"nats://127.0.0.1:{}\"]", seed.monitor().varz().cluster.cluster_port)
    });
    start(&format!(
        "server_name: {name:?}, max_payload: 8MB\n\
         cluster {{ name: c, listen: \"127.0.0.1:-1\", compression: {compression}, {routes} }}"
    ))
}

fn client(server: &Server) -> Peer {
    let mut peer = Peer::new(server);
    peer.connect(json!({"no_responders": true}));
    peer.until("PONG\r\n");
    peer
}

/// Compression of the routes of a server, by the peer's name; all connections to a peer have the same.
fn compression(server: &Server) -> BTreeMap<String, String> {
    let routes = server.monitor().routes(false).routes;
    routes.into_iter().map(|route| (route.remote_name, route.compression)).collect()
}

#[test]
fn each_side_writes_at_its_own_level_and_messages_of_every_size_arrive() {
    let fast = member("fast", "s2_fast", None);
    let best = member("best", "s2_best", Some(&fast));
    let accept = member("accept", "accept", Some(&best));
    let auto = member("auto", "{mode: s2_auto, rtt_thresholds: [\"0ms\", \"0ms\", \"10s\"]}", Some(&accept));
    let off = member("off", "off", Some(&fast));
    let servers = [&fast, &best, &accept, &auto, &off];
    for server in servers {
        eventually("the mesh closes", || server.monitor().varz().routes == 4 * 4);
    }
    let named = |list: [(&str, &str); 4]| -> BTreeMap<String, String> {
        list.iter().map(|(peer, mode)| (peer.to_string(), mode.to_string())).collect()
    };
    let (f, b, t) = ("s2_fast", "s2_best", "s2_better");
    assert_eq!(compression(&fast), named([("best", f), ("accept", f), ("auto", f), ("off", "off")]));
    assert_eq!(compression(&best), named([("fast", b), ("accept", b), ("auto", b), ("off", "off")]));
    assert_eq!(compression(&accept), named([("fast", f), ("best", b), ("auto", f), ("off", "off")]));
    assert_eq!(compression(&auto), named([("fast", t), ("best", t), ("accept", t), ("off", "off")]));
    // 2 MB of one letter are a few KB on the way, digits of a number are not
    let mut noise = String::new();
    let mut number = 7_u64;
    while noise.len() < 400_000 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise += &format!("{number:x}");
    }
    let payloads = ["", "short", &"x".repeat(2 << 20), &noise, &noise[..70_000]];
    for (i, to) in servers.iter().enumerate() {
        let mut subscriber = client(to);
        subscriber.send(format!("SUB to.{i}.* 1\r\n"));
        subscriber.sync();
        for (j, from) in servers.iter().enumerate().filter(|(j, _)| *j != i) {
            let mut publisher = client(from);
            eventually("interest arrives", || {
                publisher.send(format!("PUB to.{i}.{j} _R 1\r\n?\r\nPING\r\n"));
                !publisher.until("PONG\r\n").contains("503")
            });
            for payload in payloads {
                publisher.send(format!("PUB to.{i}.{j} {}\r\n{payload}\r\n", payload.len()));
            }
            publisher.send(format!("PUB to.{i}.{j} 3\r\nend\r\n"));
            // the server asks for a sign of life at any time
            let heard = subscriber.until("\r\nend\r\n").replace("PING\r\n", "");
            let wanted: String =
                payloads.iter().map(|p| format!("MSG to.{i}.{j} 1 {}\r\n{p}\r\n", p.len())).collect();
            assert!(heard.ends_with(&format!("{wanted}MSG to.{i}.{j} 1 3\r\nend\r\n")), "{j} to {i}");
        }
    }
}

#[test]
fn compressed_routes_may_be_encrypted_and_pinned() {
    let directory = std::env::temp_dir().join(format!("starling-compression-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, private) = (directory.join("cert.pem"), directory.join("key.pem"));
    std::fs::write(&cert, key.cert.pem()).unwrap();
    std::fs::write(&private, key.signing_key.serialize_pem()).unwrap();
    let member = |name: &str, seed: Option<&Server>| {
        let routes = seed.map_or_else(String::new, |seed| {
            format!("routes: [\"nats://127.0.0.1:{}\"]", seed.monitor().varz().cluster.cluster_port)
        });
        start(&format!(
            "server_name: {name}\ncluster {{ name: c, listen: \"127.0.0.1:-1\", compression: s2_fast, {routes}\n\
             accounts: [\"$G\"]\ntls {{ cert_file: {cert:?}, key_file: {private:?}, ca_file: {cert:?} }} }}"
        ))
    };
    let one = member("one", None);
    let two = member("two", Some(&one));
    eventually("all connections stand", || {
        one.monitor().varz().routes == 5 && two.monitor().varz().routes == 5
    });
    assert!(compression(&one).values().chain(compression(&two).values()).all(|mode| mode == "s2_fast"));
    let (mut near, mut far) = (client(&one), client(&two));
    far.send("SUB big 1\r\n");
    far.sync();
    eventually("interest arrives", || {
        near.send("PUB big _R 1\r\n?\r\nPING\r\n");
        !near.until("PONG\r\n").contains("503")
    });
    let payload = "starling ".repeat(100_000);
    near.send(format!("PUB big {}\r\n{payload}\r\n", payload.len()));
    assert!(far.until("starling \r\n").ends_with(&format!("MSG big 1 900000\r\n{payload}\r\n")));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_reload_gives_routes_their_new_settings_and_messages_go_on() {
    let text = |name: &str, seed: u16, more: &str| {
        format!(
            "server_name: {name:?}, accounts: {{A: {{users: [{{user: a, password: a}}]}}}}\n\
             cluster {{ name: c, listen: \"127.0.0.1:-1\", routes: [\"nats://127.0.0.1:{seed}\"], {more} }}"
        )
    };
    // a server may be its own seed
    let one = start(
        "server_name: one, accounts: {A: {users: [{user: a, password: a}]}}\n\
                     cluster { name: c, listen: \"127.0.0.1:-1\" }",
    );
    let seed = one.monitor().varz().cluster.cluster_port;
    let two = start(&text("two", seed, ""));
    let routes = |server: &Server| server.monitor().varz().routes;
    eventually("the mesh closes", || routes(&one) == 4 && routes(&two) == 4);
    let login = |server: &Server| {
        let mut peer = Peer::new(server);
        peer.connect(json!({"user": "a", "pass": "a", "no_responders": true}));
        peer.until("PONG\r\n");
        peer
    };
    let (mut near, mut far) = (login(&one), login(&two));
    far.send("SUB open.* 1\r\nSUB closed.* 2\r\n");
    far.sync();
    // a request that nobody serves is answered with 503
    let mut is_heard = |subject: &str| {
        near.send(format!("PUB {subject} _R 1\r\nx\r\nSUB _R 9\r\nPING\r\n"));
        let _ = near.until("PONG\r\n");
        near.send(format!("PUB {subject} _R 1\r\nx\r\nPING\r\n"));
        !near.until("PONG\r\n").contains("503")
    };
    eventually("interest arrives", || is_heard("open.x") && is_heard("closed.x"));
    for (more, connections) in [
        ("pool_size: 5", 6),
        ("accounts: [A]", 5),
        ("compression: s2_best", 4),
        ("permissions: {import: \"open.*\", export: \"open.*\"}", 4),
    ] {
        for (name, server) in [("one", &one), ("two", &two)] {
            server.reload(settings(&text(name, seed, more))).unwrap();
        }
        eventually(more, || routes(&one) == connections && routes(&two) == connections);
        eventually(more, || is_heard("open.x") && is_heard("closed.x") != more.starts_with("permissions"));
        let expected = if more.starts_with("compression") { "s2_best" } else { "off" };
        eventually(more, || compression(&one).values().all(|mode| mode == expected));
    }
    far.send("PUB end 0\r\n\r\n");
    assert!(far.sync().contains("MSG open.x 1 _R 1\r\nx\r\n"));
}

#[test]
fn each_server_on_a_message_s_way_tells_what_became_of_it() {
    let first = member("first", "off", None);
    let second = member("second", "off", Some(&first));
    let (mut publisher, mut subscriber) = (client(&first), client(&second));
    subscriber.send("SUB subject 1\r\n");
    subscriber.sync();
    publisher.send("SUB events 1\r\n");
    eventually("interest arrives", || {
        publisher.send("PUB subject _R 1\r\n?\r\nPING\r\n");
        !publisher.until("PONG\r\n").contains("503")
    });
    subscriber.sync();
    let header = "NATS/1.0\r\nNats-Trace-Dest: events\r\n\r\n";
    publisher.send(format!("HPUB subject {} {}\r\n{header}x\r\n", header.len(), header.len() + 1));
    let delivered = subscriber.until("\r\nx\r\n");
    assert!(delivered.contains("Nats-Trace-Hop: 1\r\n"), "{delivered}");
    let mut events = String::new();
    while events.matches("\"events\":[").count() < 2 {
        events += &publisher.until("]}\r\n");
    }
    for told in [
        r#""kind":1,"cid":"#,
        r#""name":"second","hop":"1"}"#,
        r#""hops":1,"#,
        r#""name":"first","acc":"$G","subj":"subject"}"#,
        r#""sub":"subject"}"#,
    ] {
        assert!(events.contains(told), "{told}: {events}");
    }
}
