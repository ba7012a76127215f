//! Tokens made by the public Go libraries (nats-io/jwt 2.8.2, nkeys 0.4.16), kept in `go_tokens.json`.

use accounts::exchange::{Latency, ResponseType};
use accounts::*;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use std::collections::HashMap;

/// 2026-11-21, after they were made.
const NOW: u64 = 1_795_300_000_000_000_000;

fn tokens() -> HashMap<String, String> {
    serde_json::from_str(include_str!("go_tokens.json")).unwrap()
}

fn table() -> Table {
    let tokens = tokens();
    let source = AccountsSource {
        operators: OperatorsSource {
            operators: vec![tokens["operator"].clone()],
            accounts: ["system", "account", "importer"].map(|name| tokens[name].clone()).into(),
            ..Default::default()
        },
        ..Default::default()
    };
    let table = Table::new(source, NOW).unwrap();
    assert_eq!(table.notes(), [""; 0]);
    table
}

fn ask(table: &Table, user: &str) -> Result<Identity, AuthError> {
    let (tokens, nonce) = (tokens(), b"nonce");
    let signature = tokens.get(&format!("{user}_seed")).map_or(String::new(), |seed| {
        BASE64URL_NOPAD.encode(&KeyPair::from_seed(seed).unwrap().sign(nonce).unwrap())
    });
    let credentials = Credentials { jwt: &tokens[user], signature: &signature, ..Default::default() };
    let address = Some("10.0.0.1".parse().unwrap());
    let peer = Peer { nonce, connection: ConnectionType::Standard, certificate: None, address };
    table.authenticate(&credentials, &peer, NOW)
}

#[test]
fn users_of_all_kinds_are_let_in() {
    let table = table();
    let plain = ask(&table, "user").unwrap();
    let permissions = plain.permissions.unwrap();
    assert!(permissions.can_publish(b"a.b") && !permissions.can_publish(b"b"));
    assert_eq!(permissions.can_subscribe(b"b.>", None), Subscribe::Allowed);
    assert_eq!(permissions.can_subscribe(b"c", Some(b"q")), Subscribe::Allowed);
    assert_eq!(permissions.can_subscribe(b"c", None), Subscribe::Denied);
    assert_eq!(plain.limits.subscriptions_max, Some(100));

    let scoped = ask(&table, "scoped_user").unwrap().permissions.unwrap();
    assert!(scoped.can_publish(b"eu.joe.x") && !scoped.can_publish(b"us.joe.x"));
    assert_eq!(scoped.can_subscribe(b"in.x", Some(b"q.1")), Subscribe::Allowed);
    assert_eq!(scoped.can_subscribe(b"in.y", Some(b"q.1")), Subscribe::Denied);
    let expected = Responses { messages_max: Some(3), expires_nanos: Some(60_000_000_000) };
    assert_eq!(scoped.responses(), Some(expected));

    let bearer = ask(&table, "bearer_user").unwrap().permissions.unwrap();
    assert!(bearer.can_publish(b"x") && !bearer.can_publish(b"never"));
    assert_eq!(ask(&table, "revoked_user").unwrap_err(), AuthError::Refused(Reason::Revoked));
}

#[test]
fn accounts_come_with_all_they_exchange() {
    let table = table();
    let named = |name: &str| {
        let by_name =
            |account: &&std::sync::Arc<Account>| account.claims().is_some_and(|claims| claims.name == name);
        table.accounts().iter().find(by_name).unwrap()
    };
    assert_eq!(table.system_account(), Some(named("SYS").id));
    let exporter = named("EXP");
    assert_eq!(exporter.limits.connections_max, Some(10));
    let latency = exporter.exports.service("lat").unwrap().latency.clone();
    assert_eq!(latency, Some(Latency { sampling_percent: 0, results: "lat.results".into() }));
    let mapping = exporter.mappings.find(b"map.x").unwrap();
    let mut out = vec![];
    assert!(mapping.choose(99).unwrap().apply(b"map.x", &mut || 0, &mut out));
    assert_eq!(out, b"other.x");

    let imports = &named("IMP").imports;
    assert_eq!(imports.streams[0].remote_filter(b"local.y").unwrap(), b"news.y.x");
    let service = imports.services.iter().find(|import| &*import.from == "ask.*").unwrap();
    assert!(service.share);
    assert_eq!(service.response_type, ResponseType::Stream);
    assert_eq!(service.response_threshold_nanos, 5_000_000_000);
    out.clear();
    service.remote(b"ask.me", &mut out);
    assert_eq!(out, b"svc.me");
}

#[test]
fn requests_to_delete_accounts_can_be_read() {
    let claims = jwt::generic(&tokens()["delete"]).unwrap();
    assert!(claims.nats["accounts"].is_array());
}
