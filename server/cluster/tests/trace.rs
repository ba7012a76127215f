//! The route protocol as scripts: what a peer says, what it hears, what follows.

mod server;

use cluster::{Authorization, CloseReason, Compression, ConnectionId};
use cluster::{Level, RouteConversation, Settings};
use server::*;
use std::collections::BTreeMap;
use std::time::Duration;
use wire::route::Info;

#[test]
fn an_accepted_peer_is_introduced_to_at_once_and_gets_our_interest_after_its_introduction() {
    let mut own = server(settings());
    own.accept(1, "10.0.0.2:40000");
    assert_eq!(own.heard(1), ["INFO NOWN"]);
    own.says(1, CONNECT);
    own.says(1, "RS+ $G early\r\n");
    assert_eq!(own.heard(1), [""; 0]);
    own.says(1, &info("NPEER", ",\"route_pool_idx\":2"));
    own.says(1, "PING\r\nRS+ $G foo q 2\r\nLS- hub $G bar\r\n");
    assert_eq!(own.heard(1), ["<interest>", "PONG"]);
    assert_eq!(
        own.events,
        [
            "RS+ $G early",
            "joined NPEER",
            "ready 1 Pool { index: 2, pool_size: 3, pinned: [\"$SYS\"] } headers=true",
            "RS+ $G foo q 2",
            "LS- hub $G bar"
        ]
    );
}

#[test]
fn the_first_info_has_what_nats_server_looks_for() {
    let mut own = server(Settings { pool_size: 5, ..settings() });
    own.accept(1, "10.0.0.2:40000");
    let text = own.sent.remove(&1).unwrap();
    let info = Info::decode(text.strip_prefix("INFO ").unwrap().trim().as_bytes()).unwrap();
    assert!(text.ends_with(" \r\n") && info.proto >= 2 && info.headers && info.lnoc && info.lnocu && info.ln);
    assert_eq!(info.nonce.len(), 15);
    assert_eq!((info.compression.as_str(), info.route_pool_size, info.port), ("off", 5, 6222));
    assert_eq!(info.connect_urls, ["10.0.0.1:4222"]);
}

#[test]
fn a_solicited_pool_is_filled_one_by_one_and_then_left_alone() {
    let mut own = server(with_routes(&["nats://user:pw@10.0.0.2:6222"]));
    for index in 0..4u64 {
        assert_eq!(own.dials.len(), 1, "one dial at a time");
        assert_eq!(own.dial(index), "10.0.0.2:6222".parse().unwrap());
        let sent = &own.sent[&index];
        assert!(
            sent.contains("\"user\":\"user\",\"pass\":\"pw\"") && sent.contains("\"name\":\"NOWN\""),
            "{sent}"
        );
        // a place in the pool is agreed on first; a connection for an account has none to wait for
        let place = if index == 0 { String::new() } else { format!(" index={index}") };
        let (first, second) = match index {
            3 => (vec!["CONNECT", "INFO NOWN account=$SYS"], String::new()),
            _ => (vec!["CONNECT"], format!("INFO NOWN{place}")),
        };
        assert_eq!(own.heard(index), first);
        own.says(index, &info("NPEER", ""));
        let answer = own.heard(index);
        let expected: Vec<&str> =
            [second.as_str(), "<interest>", "PING"].into_iter().filter(|line| !line.is_empty()).collect();
        assert_eq!(answer, expected);
        assert!(own.dials.is_empty(), "the next waits for the answer");
        own.says(index, "PONG\r\n");
    }
    own.says(3, "RS+ $SYS.REQ.>\r\n");
    assert_eq!(own.events.last().unwrap(), "RS+ $SYS.REQ.>", "no account on a pinned connection");
    own.wait(20 * SECOND);
    assert!(own.dials.is_empty());
    let peer = own.mesh.peers().next().unwrap();
    assert_eq!((peer.pooled, peer.pinned), (3, 1));
}

#[test]
fn a_lost_connection_of_the_pool_comes_back_at_its_place() {
    let mut own = server(with_routes(&["nats://10.0.0.2:6222"]));
    for index in 0..4 {
        own.dial(index);
        own.says(index, &format!("{}PONG\r\n", info("NPEER", "")));
    }
    own.goes(1);
    assert!(own.dials.is_empty(), "not at once");
    own.wait(2 * SECOND);
    own.dial(9);
    own.says(9, &info("NPEER", ""));
    assert!(own.heard(9).contains(&"INFO NOWN index=1".to_owned()));
    assert!(!own.events.contains(&"left NPEER".to_owned()));
}

#[test]
fn who_cannot_show_the_password_hears_so_and_goes() {
    let verify = |wanted: &str, shown: &str| wanted == shown;
    let authorization = Authorization { user: "route".into(), password: "secret".into(), verify };
    let mut own = server(Settings { authorization: Some(authorization), ..settings() });
    own.accept(1, "10.0.0.2:1");
    own.heard(1);
    own.says(1, &CONNECT.replace("\"name\"", "\"user\":\"route\",\"pass\":\"guess\",\"name\""));
    assert_eq!(own.heard(1), ["-ERR 'Authorization Violation'"]);
    assert_eq!(own.closed[&1], CloseReason::AuthenticationViolation);
    own.accept(2, "10.0.0.2:2");
    own.heard(2);
    own.wait(3 * SECOND);
    assert_eq!(own.heard(2), ["-ERR 'Authentication Timeout'"]);
    assert_eq!(own.closed[&2], CloseReason::AuthenticationTimeout);
    own.accept(3, "10.0.0.2:3");
    own.says(3, &CONNECT.replace("\"name\"", "\"user\":\"route\",\"pass\":\"secret\",\"name\""));
    assert!(own.routes[&3].is_open());
}

#[test]
fn what_is_no_route_is_sent_away_with_a_reason() {
    let mut own = server(settings());
    let cases = [
        (
            "CONNECT {\"lang\":\"go\",\"name\":\"app\"}\r\n",
            "attempted to connect to route port",
            CloseReason::WrongPort,
        ),
        ("GET / HTTP/1.1\r\n", "Authorization Violation", CloseReason::AuthenticationViolation),
        ("PING\r\n", "Authorization Violation", CloseReason::AuthenticationViolation),
        (
            "CONNECT {\"gateway\":\"east\",\"name\":\"N\",\"cluster\":\"c\"}\r\n",
            "Rejecting connection from gateway \"east\" on the Route port",
            CloseReason::WrongGateway,
        ),
        (
            "CONNECT {\"name\":\"N\",\"cluster\":\"other\"}\r\n",
            "Rejecting connection, cluster name \"other\" does not match \"c\"",
            CloseReason::ClusterNameConflict,
        ),
        (
            "CONNECT {\"name\":\"N\",\"cluster\":\"_\"}\r\n",
            "Rejecting connection, cluster name \"_\" is reserved",
            CloseReason::ClusterNameConflict,
        ),
    ];
    for (number, (text, answer, reason)) in (1..).zip(cases) {
        own.accept(number, "10.0.0.9:1");
        own.heard(number);
        own.says(number, text);
        assert_eq!(own.heard(number), [format!("-ERR '{answer}'")], "{text:?}");
        assert_eq!(own.closed[&number], reason, "{text:?}");
    }
    assert_eq!(own.mesh.peers().count(), 0);
}

#[test]
fn garbage_on_a_member_ends_it() {
    let mut own = server(settings());
    own.member(1, "NPEER", "10.0.0.2:1", "");
    own.says(1, "NONSENSE\r\n");
    assert_eq!(own.heard(1), ["-ERR 'Unknown Protocol Operation'"]);
    assert_eq!(own.closed[&1], CloseReason::ProtocolViolation);
    assert_eq!(own.events.last().unwrap(), "left NPEER");
}

#[test]
fn a_server_with_our_name_and_we_ourselves_are_refused() {
    let mut own = server(with_routes(&["nats://10.0.0.7:6222"]));
    own.accept(1, "10.0.0.2:1");
    own.says(1, CONNECT);
    own.says(1, &info("NPEER", "").replace("\"npeer\"", "\"own\""));
    assert_eq!(own.closed[&1], CloseReason::DuplicateServerName);
    own.dial(2);
    own.says(2, &info("NOWN", ""));
    assert_eq!(own.closed[&2], CloseReason::DuplicateRoute);
    own.wait(100 * SECOND);
    assert!(own.dials.is_empty(), "an address that turned out to be ours is not dialled again");
}

#[test]
fn a_configured_cluster_name_wins_over_a_random_one_and_stays() {
    let mut own = server(Settings { cluster_name: None, ..settings() });
    let random = own.mesh.cluster_name().to_owned();
    own.accept(1, "10.0.0.2:1");
    own.says(1, CONNECT);
    assert_eq!((own.mesh.cluster_name(), own.closed.len()), ("c", 0));
    assert_eq!(own.events, ["cluster c"]);
    own.accept(2, "10.0.0.3:1");
    own.heard(2);
    own.says(2, &CONNECT.replace("\"c\"", "\"zzz\",\"cluster_dynamic\":true"));
    assert_eq!(own.heard(2), ["-ERR 'Rejecting connection, cluster name \"zzz\" does not match \"c\"'"]);
    assert_ne!(random, "c");
}

#[test]
fn of_two_random_cluster_names_the_greater_wins_and_other_routes_are_dropped() {
    let mut own = server(Settings { cluster_name: None, ..settings() });
    let named =
        |text: &str, name: &str| text.replace("\"c\"", &format!("\"{name}\",\"cluster_dynamic\":true"));
    let mine = own.mesh.cluster_name().to_owned();
    own.accept(1, "10.0.0.2:1");
    own.says(1, &named(CONNECT, &mine));
    own.says(1, &named(&info("NPEER", ""), &mine));
    own.accept(2, "10.0.0.3:1");
    own.says(2, &named(CONNECT, "0"));
    assert_eq!(own.closed[&2], CloseReason::ClusterNameConflict);
    own.accept(3, "10.0.0.4:1");
    own.says(3, &named(&CONNECT.replace("NPEER", "NTHIRD"), "zz"));
    assert_eq!(own.mesh.cluster_name(), "zz");
    assert_eq!(own.closed[&1], CloseReason::ClusterNameConflict);
    assert!(own.routes[&3].is_open());
}

#[test]
fn a_newcomer_is_made_known_to_the_others_and_they_dial_it() {
    let mut own = server(settings());
    own.member(1, "NA", "10.0.0.2:40000", "");
    own.member(2, "NB", "10.0.0.3:40000", ",\"nonce\":\"secret\"");
    assert!(!own.sent[&1].contains("secret"));
    assert_eq!(own.heard(1), ["INFO NB gossip=1 ip=nats-route://10.0.0.3:6222/"]);
    assert_eq!(own.heard(2), [""; 0], "the newcomer is told nothing");
    // a second connection of its pool is no news
    own.member(3, "NB", "10.0.0.3:40001", ",\"route_pool_idx\":1");
    assert_eq!(own.heard(1), [""; 0]);
    // who was told not to pass on says so
    own.member(4, "NC", "10.0.0.4:40000", ",\"gossip_mode\":1");
    assert_eq!((own.heard(1), own.heard(2)), (vec![], vec![]));
    // what we hear is dialled, with the password of our own cluster
    own.says(1, &info("ND", ",\"ip\":\"nats-route://10.0.0.5:6222/\",\"gossip_mode\":1"));
    own.wait(3 * SECOND);
    assert_eq!(own.dial(5), "10.0.0.5:6222".parse().unwrap());
    own.says(5, &info("ND", ""));
    assert_eq!(own.heard(5)[1], "INFO NOWN gossip=1");
    assert_eq!(own.heard(1), ["PING"], "and not passed on");
    // we know NB already, and ourselves
    own.says(1, &info("NB", ",\"ip\":\"nats-route://10.0.0.3:6222/\""));
    own.says(1, &info("NOWN", ",\"ip\":\"nats-route://10.0.0.1:6222/\""));
    own.wait(3 * SECOND);
    assert!(own.dials.is_empty());
}

#[test]
fn a_configured_peer_is_asked_to_pass_the_news_on() {
    let mut own = server(with_routes(&["nats://10.0.0.2:6222"]));
    own.dial(1);
    own.says(1, &info("NSEED", ""));
    own.heard(1);
    own.member(2, "NB", "10.0.0.3:40000", "");
    assert_eq!(own.heard(1), ["INFO NB gossip=2 ip=nats-route://10.0.0.3:6222/"]);
}

#[test]
fn places_that_do_not_exist_and_accounts_without_routes_are_refused() {
    let mut own = server(settings());
    let cases = [
        (",\"route_pool_idx\":3", "Invalid route pool index: 3 - pool size is 3"),
        (",\"route_pool_idx\":-1", "Invalid route pool index: -1 - pool size is 3"),
        (",\"route_account\":\"A\"", "No route for account \"A\""),
    ];
    for (number, (more, answer)) in (1..).zip(cases) {
        own.accept(number, "10.0.0.2:1");
        own.says(number, CONNECT);
        own.heard(number);
        own.says(number, &info("NPEER", more));
        assert_eq!(own.heard(number), [format!("-ERR '{answer}'")]);
        assert_eq!(own.closed[&number], CloseReason::ProtocolViolation);
    }
    // a larger pool at the peer is fine: servers are upgraded one by one
    own.accept(9, "10.0.0.2:1");
    own.says(9, CONNECT);
    own.says(
        9,
        &info("NPEER", ",\"route_pool_idx\":4").replace("\"route_pool_size\":3", "\"route_pool_size\":5"),
    );
    assert!(own.routes[&9].is_member());
}

#[test]
fn a_peer_without_pools_gets_one_connection_for_everything() {
    let mut own = server(settings());
    own.accept(1, "10.0.0.2:1");
    own.says(1, CONNECT);
    own.says(1, &info("NOLD", "").replace(",\"route_pool_size\":3", ""));
    assert_eq!(own.events.last().unwrap(), "ready 1 Everything headers=true");
    own.accept(2, "10.0.0.2:2");
    own.says(2, CONNECT);
    own.says(2, &info("NOLD", "").replace(",\"route_pool_size\":3", ""));
    assert_eq!(own.closed[&2], CloseReason::DuplicateRoute);
}

#[test]
fn a_server_that_refuses_us_never_becomes_a_member() {
    let mut own = server(with_routes(&["nats://10.0.0.2:6222"]));
    own.dial(1);
    own.says(1, &info("NPEER", ",\"connect_urls\":[\"10.0.0.2:4222\"]"));
    own.says(1, "-ERR 'Authorization Violation'\r\n");
    assert!(own.urls.is_empty() && own.mesh.peers().count() == 0);
    assert!(!own.events.iter().any(|event| event.contains("NPEER")), "{:?}", own.events);
    own.wait(2 * SECOND);
    own.dial(2);
    own.says(2, &info("NPEER", ",\"connect_urls\":[\"10.0.0.2:4222\"]"));
    assert!(own.urls.is_empty());
    own.says(2, "PONG\r\n");
    assert_eq!(own.urls.len(), 1);
    assert_eq!(own.events.last().unwrap(), "joined NPEER");
}

#[test]
fn without_a_pool_we_introduce_ourselves_at_once_and_open_one_connection() {
    let mut own = server(Settings { pool_size: 0, ..with_routes(&["nats://10.0.0.2:6222"]) });
    own.dial(1);
    assert_eq!(own.heard(1), ["CONNECT", "INFO NOWN"]);
    own.wait(3 * SECOND);
    assert_eq!(own.heard(1), [""; 0], "a peer that has not introduced itself is not pinged");
    own.says(1, &info("NPEER", ""));
    assert_eq!(own.heard(1), ["<interest>", "PING"]);
    own.says(1, "PONG\r\n");
    own.wait(20 * SECOND);
    assert!(own.dials.is_empty());
    assert!(own.events.contains(&"ready 1 Everything headers=true".to_owned()));
}

#[test]
fn a_taken_place_is_not_given_twice() {
    let mut own = server(settings());
    own.member(1, "NPEER", "10.0.0.2:1", "");
    own.accept(2, "10.0.0.2:2");
    own.says(2, CONNECT);
    own.says(2, &info("NPEER", ""));
    assert_eq!(own.closed.get(&2), Some(&CloseReason::DuplicateRoute));
    assert_eq!(own.closed.get(&1), None);
}

/// Both sides dialled each other: connection 1 is ours, connection 2 the peer's, for the same place.
fn crossing(peer: &str, more: &str, confirmed: bool) -> Server {
    let mut own = server(with_routes(&["nats://10.0.0.2:6222"]));
    own.dial(1);
    own.accept(2, "10.0.0.2:40000");
    own.says(2, &CONNECT.replace("NPEER", peer));
    own.says(1, &info(peer, more));
    if confirmed {
        own.says(1, "PONG\r\n");
    }
    own.says(2, &info(peer, more));
    own
}

#[test]
fn crossing_connections_are_settled_without_losing_the_peer() {
    let starling = ",\"starling\":\"0.1.0\"";
    // nats-server closes ours for certain, so its own has to stay
    for (peer, more, loser) in [("NZ", "", 1), ("NA", "", 1), ("NA", starling, 1), ("NZ", starling, 2)] {
        let mut own = crossing(peer, more, false);
        if loser == 2 {
            own.says(1, "PONG\r\n");
        }
        assert_eq!(own.closed, BTreeMap::from([(loser, CloseReason::DuplicateRoute)]), "{peer} {more}");
        assert!(!own.events.iter().any(|event| event.starts_with("left")), "{:?}", own.events);
        assert_eq!(own.mesh.peers().count(), 1);
    }
    // what the peer has confirmed is not given up
    assert_eq!(crossing("NA", "", true).closed, BTreeMap::from([(2, CloseReason::DuplicateRoute)]));
}

#[test]
fn clients_are_shown_all_servers_and_none_that_leaves() {
    let mut own = server(settings());
    own.member(1, "NB", "10.0.0.3:1", ",\"connect_urls\":[\"10.0.0.3:4222\"]");
    own.member(2, "NA", "10.0.0.2:1", ",\"connect_urls\":[\"10.0.0.2:4222\",\"10.0.0.1:4222\"]");
    let text = |urls: &[&str]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        own.urls,
        [
            (text(&["10.0.0.1:4222", "10.0.0.3:4222"]), false),
            (text(&["10.0.0.1:4222", "10.0.0.2:4222", "10.0.0.3:4222"]), false)
        ]
    );
    own.says(1, &info("NB", ",\"ldm\":true"));
    assert_eq!(own.urls.pop().unwrap().0, text(&["10.0.0.1:4222", "10.0.0.2:4222"]));
    own.goes(1);
    own.goes(2);
    assert_eq!(own.urls.pop().unwrap().0, text(&["10.0.0.1:4222"]));
    assert_eq!(own.mesh.client_urls().0, text(&["10.0.0.1:4222"]));
}

#[test]
fn in_lame_duck_mode_peers_and_clients_are_told_and_nobody_is_dialled() {
    let mut own = server(settings());
    own.member(1, "NB", "10.0.0.3:1", ",\"connect_urls\":[\"10.0.0.3:4222\"]");
    own.member(2, "NB", "10.0.0.3:2", ",\"route_pool_idx\":1");
    own.mesh.begin_lame_duck(own.now);
    own.collect();
    assert_eq!(own.heard(1), ["INFO NOWN ldm"]);
    assert_eq!(own.heard(2), [""; 0], "once a peer");
    assert_eq!(own.urls.last().unwrap(), &(vec!["10.0.0.3:4222".to_owned()], true));
    own.says(1, &info("ND", ",\"ip\":\"nats-route://10.0.0.5:6222/\""));
    own.wait(10 * SECOND);
    assert!(own.dials.is_empty());
}

#[test]
fn with_no_advertise_client_urls_stay_at_home() {
    let mut own = server(Settings { no_advertise: true, ..settings() });
    own.accept(1, "10.0.0.2:1");
    assert!(!own.sent[&1].contains("connect_urls"));
    own.says(1, CONNECT);
    own.says(1, &info("NB", ",\"connect_urls\":[\"10.0.0.3:4222\"]"));
    assert!(own.urls.is_empty());
    assert_eq!(own.mesh.client_urls().0, ["10.0.0.1:4222"]);
}

#[test]
fn others_are_told_the_advertised_address_in_place_of_the_one_that_is_listened_on() {
    let mut own = server(settings());
    own.mesh.reconfigure(settings(), Some(("broker.example".into(), 7222)), own.now);
    own.accept(1, "10.0.0.2:40000");
    let text = own.sent.remove(&1).unwrap();
    let info = Info::decode(text.strip_prefix("INFO ").unwrap().trim().as_bytes()).unwrap();
    assert_eq!(
        (info.host.as_str(), info.port, info.ip.as_str()),
        ("broker.example", 7222, "nats-route://broker.example:7222/")
    );
}

#[test]
fn a_server_known_by_gossip_is_dialled_every_second_only_as_often_as_connect_retries_says() {
    let pauses = |connect_retries| {
        let mut own = server(Settings { connect_retries, ..settings() });
        own.member(1, "NA", "10.0.0.2:40000", "");
        own.says(1, &info("NB", ",\"ip\":\"nats-route://10.0.0.3:6222/\",\"gossip_mode\":1"));
        own.wait(3 * SECOND);
        own.pauses(5)
    };
    assert_eq!(pauses(4)[..4], [1; 4]);
    assert!(pauses(4)[4] >= 4, "{:?}", pauses(4));
    assert!(pauses(0)[2] >= 3, "{:?}", pauses(0));
}

#[test]
fn a_silent_peer_is_pinged_and_given_up() {
    let mut own = server(settings());
    own.member(1, "NPEER", "10.0.0.2:1", "");
    own.wait(2 * SECOND);
    assert_eq!(own.heard(1), ["PING"]);
    own.says(1, "PONG\r\n");
    assert!(own.routes[&1].round_trip().is_some());
    own.wait(61 * SECOND);
    assert_eq!(own.heard(1), ["PING", "PING"]);
    own.wait(30 * SECOND);
    assert_eq!(own.heard(1), ["-ERR 'Stale Connection'"]);
    assert_eq!(own.closed[&1], CloseReason::StaleConnection);
    assert_eq!(own.mesh.peers().count(), 0);
}

#[test]
fn a_name_is_looked_up_again_and_addresses_that_left_it_are_forgotten() {
    let mut own = server(with_routes(&["nats://cluster.example:6222"]));
    own.resolve(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let dialled: Vec<String> = own.dials.iter().map(|(_, address)| address.to_string()).collect();
    assert_eq!(dialled, ["10.0.0.2:6222", "10.0.0.3:6222"], "all but our own");
    own.dial(1);
    own.says(1, &info("NB", ""));
    own.dial_fails();
    own.wait(2 * SECOND);
    assert_eq!(own.dials.len(), 1, "the other is tried again");
    own.dial_fails();
    own.resolve(&["10.0.0.1", "10.0.0.2", "10.0.0.4"]);
    assert_eq!(own.dial_fails(), "10.0.0.4:6222".parse().unwrap());
    own.dials.clear();
    own.resolves.clear();
    own.wait(10 * SECOND);
    assert!(
        own.dials.iter().all(|(_, address)| *address == "10.0.0.4:6222".parse().unwrap()),
        "{:?}",
        own.dials
    );
    own.wait(20 * SECOND);
    assert_eq!(own.resolves, ["cluster.example"]);
    own.goes(1);
    assert_eq!(own.mesh.peers().count(), 0);
}

#[test]
fn a_failed_lookup_is_repeated() {
    let mut own = server(with_routes(&["nats://cluster.example:6222"]));
    own.resolves.clear();
    own.mesh.handle_resolved("cluster.example", Err("no such host"), own.now);
    own.wait(2 * SECOND);
    assert_eq!(own.resolves, ["cluster.example"]);
}

#[test]
fn dials_are_bounded_in_number_and_rate() {
    let mut own = server(with_routes(&["nats://many.example:6222"]));
    let addresses: Vec<String> = (0..200).map(|n| format!("10.1.0.{n}")).collect();
    own.resolve(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(own.dials.len(), 32);
    while own.dials.len() > 1 {
        own.dial_fails();
    }
    let before = own.dials.len();
    own.wait(Duration::from_millis(100));
    assert!(own.dials.len() - before <= 12, "about one every 10 ms: {}", own.dials.len());
}

#[test]
fn connect_backoff_doubles_the_pause_up_to_half_a_minute() {
    let pauses = |connect_backoff| {
        let mut own = server(Settings { connect_backoff, ..with_routes(&["nats://10.0.0.2:6222"]) });
        own.pauses(7)
    };
    assert!(pauses(false).iter().all(|pause| *pause <= 1), "{:?}", pauses(false));
    let slow = pauses(true);
    for (pause, full) in slow.iter().zip([1, 2, 4, 8, 16, 30, 30]) {
        assert!((full * 4 / 5..=full).contains(pause), "{slow:?}");
    }
}

#[test]
fn a_peer_that_has_no_connection_for_an_account_is_asked_again_only_after_a_minute() {
    let mut own = server(with_routes(&["nats://10.0.0.2:6222"]));
    for index in 0..4 {
        own.dial(index);
        own.says(index, &format!("{}PONG\r\n", info("NPEER", "")));
    }
    own.dials.clear();
    own.says(3, "-ERR 'No route for account \"$SYS\"'\r\n");
    assert_eq!(own.closed[&3], CloseReason::ParseError);
    own.wait(50 * SECOND);
    assert!(own.dials.is_empty());
}

#[test]
fn routes_taken_from_the_configuration_are_closed_and_new_ones_dialled() {
    let mut own = server(with_routes(&["nats://10.0.0.2:6222"]));
    own.dial(1);
    own.says(1, &info("NPEER", ""));
    own.reload(with_routes(&["nats://10.0.0.3:6222"]));
    assert_eq!(own.closed[&1], CloseReason::RouteRemoved);
    assert_eq!(own.dials.pop().unwrap().1, "10.0.0.3:6222".parse().unwrap());
    own.wait(30 * SECOND);
    assert!(own.dials.is_empty());
}

/// A peer that fills its pool: connections 0 to 2, and 3 for the system account.
fn pooled(settings: Settings) -> Server {
    let mut own = server(Settings { routes: with_routes(&["nats://10.0.0.2:6222"]).routes, ..settings });
    for index in 0..4 {
        own.dial(index);
        own.says(index, &format!("{}PONG\r\n", info("NPEER", "")));
        own.heard(index);
    }
    own
}

#[test]
fn a_reload_renews_the_connections_that_it_concerns_and_no_others() {
    let mut own = pooled(settings());
    let routes = own.mesh.settings().routes.clone();
    let before = Settings { routes, ..settings() };
    own.reload(before.clone());
    own.reload(Settings { ping_interval: SECOND, connect_retries: 5, ..before.clone() });
    assert_eq!(own.ended(), [0; 0], "what is asked for anew each time needs no new connection");
    // "A" is carried by one place of the pool; its peer has to hear from us where it goes now
    let place = cluster::interest::pool_index(3, "A") as u64;
    let pinned = Settings { pinned_accounts: vec!["$SYS".into(), "A".into()], ..before.clone() };
    own.reload(pinned);
    assert_eq!(own.ended(), [place]);
    own.wait(2 * SECOND);
    let mut sent = Vec::new();
    for number in [10, 11] {
        own.dial(number);
        own.says(number, &format!("{}PONG\r\n", info("NPEER", "")));
        sent.extend(own.heard(number));
    }
    assert!(sent.contains(&"INFO NOWN account=A".to_owned()), "{sent:?}");
    own.reload(before.clone());
    assert_eq!(own.ended(), [10, 11], "the account's own goes, and who carries it again is told");
}

#[test]
fn another_pool_size_renews_the_pool_and_other_permissions_renew_all() {
    let mut own = pooled(settings());
    let before = Settings { routes: own.mesh.settings().routes.clone(), ..settings() };
    own.reload(Settings { pool_size: 2, ..before.clone() });
    assert_eq!(own.ended(), [0, 1, 2]);
    let mut own = pooled(settings());
    let import = Some(wire::route::SubjectPermission { allow: vec!["a.>".into()], deny: vec![] });
    own.reload(Settings { permissions: cluster::Permissions { import, export: None }, ..before });
    assert_eq!(own.ended(), [0, 1, 2, 3]);
    own.wait(2 * SECOND);
    own.dial(9);
    own.says(9, &info("NPEER", ""));
    assert!(own.routes[&9].is_member(), "and both sides begin anew");
}

#[test]
fn no_advertise_may_come_and_go() {
    let mut own = server(settings());
    own.member(1, "NPEER", "10.0.0.2:1", ",\"connect_urls\":[\"10.0.0.2:4222\"]");
    own.reload(Settings { no_advertise: true, ..settings() });
    assert_eq!(own.urls.last().unwrap().0, ["10.0.0.1:4222"]);
    own.reload(settings());
    assert_eq!(own.urls.last().unwrap().0, ["10.0.0.1:4222", "10.0.0.2:4222"]);
}

#[test]
fn who_dials_chooses_compression_last_in_plain_and_who_accepts_answers_compressed() {
    let fast = Settings { compression: Compression::At(Level::Fast), ..settings() };
    let routes = with_routes(&["nats://10.0.0.2:6222"]).routes;
    let mut own = server(Settings { routes, ..fast.clone() });
    own.dial(1);
    assert_eq!(own.heard(1), ["CONNECT"], "what is chosen depends on the peer");
    own.says(1, &info("NPEER", ",\"compression\":\"accept\""));
    assert_eq!(own.heard(1), ["INFO NOWN", "<s2_fast>"]);
    assert!(own.routes.get_mut(&1).unwrap().is_compressed_from_here());
    assert!(!own.routes[&1].is_member());
    own.says(1, &info("NPEER", ",\"compression\":\"s2_fast\""));
    assert_eq!(own.heard(1), ["INFO NOWN", "<interest>", "PING"]);
    let mut own = server(fast.clone());
    own.accept(1, "10.0.0.2:1");
    own.says(1, CONNECT);
    own.heard(1);
    own.says(1, &info("NPEER", ",\"compression\":\"s2_best\""));
    assert_eq!(own.heard(1), ["<s2_fast>", "INFO NOWN"]);
    own.says(1, &info("NPEER", ",\"compression\":\"s2_best\",\"route_pool_idx\":1"));
    assert!(own.routes[&1].is_member());
    assert_eq!(own.mesh.connections().next().unwrap().compression, "s2_fast");
    // a level changes where it is, anything else begins anew
    own.heard(1);
    own.reload(Settings { compression: Compression::At(Level::Best), ..settings() });
    assert_eq!((own.heard(1), own.ended()), (vec!["<s2_best>".to_owned()], vec![]));
    own.reload(Settings { compression: Compression::Off, ..settings() });
    assert_eq!(own.ended(), [1]);
    let mut own = server(fast);
    own.accept(1, "10.0.0.2:1");
    own.says(1, CONNECT);
    own.heard(1);
    own.says(1, &info("NPEER", ",\"compression\":\"zip\""));
    assert_eq!(own.heard(1), ["-ERR 'unsupported route compression mode \"zip\"'"]);
    assert_eq!(own.closed[&1], CloseReason::ProtocolViolation);
}

#[test]
fn the_level_follows_the_round_trips_that_pings_measure() {
    let thresholds = [10, 50, 100].map(Duration::from_millis).to_vec();
    let mut own = server(Settings { compression: Compression::Auto(thresholds), ..settings() });
    own.accept(1, "10.0.0.2:1");
    own.says(1, CONNECT);
    own.says(1, &info("NPEER", ",\"compression\":\"accept\""));
    own.says(1, &info("NPEER", ",\"compression\":\"s2_fast\""));
    assert!(own.heard(1).contains(&"<s2_uncompressed>".to_owned()));
    own.wait(2 * SECOND);
    assert_eq!(own.heard(1), ["PING"]);
    // it was asked less than a second and a fifth after the start: this answer took about a second
    own.says(1, "PONG\r\n");
    assert_eq!(own.heard(1), ["<s2_best>"]);
}

#[test]
fn changed_permissions_of_a_peer_are_news_once() {
    let mut own = server(settings());
    own.member(1, "NPEER", "10.0.0.2:1", "");
    own.events.clear();
    own.says(1, &info("NPEER", ",\"export\":{\"allow\":[\"a.>\"]}"));
    own.says(1, &info("NPEER", ",\"export\":{\"allow\":[\"a.>\"]}"));
    assert_eq!(own.events, ["permissions"]);
}

#[test]
fn a_dial_that_nobody_waits_for_any_more_is_dropped() {
    let mut own = server(with_routes(&["nats://10.0.0.2:6222"]));
    let (dial, _) = own.dials.remove(0);
    own.reload(settings());
    assert!(RouteConversation::dialed(&mut own.mesh, dial, ConnectionId(1), own.now).is_none());
}
