//! Operator mode as its users see it: who gets in by JWT, who does not, and what happens to those who are in when
//! the account changes.

mod support;

use nkeys::KeyPair;
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::{Peer, World, eventually, mint, now_seconds, settings, sign_text, start, user_token};

const VIOLATION: &str = "-ERR 'Authorization Violation'\r\n";

#[test]
fn a_user_with_a_token_and_the_key_to_it_is_let_in_to_its_account() {
    let world = World::default();
    let server = start(&world.config("MEMORY", &[(&world.account, &world.account_token(json!({})))]));
    let jwt = world.user_token(json!({"pub": {"allow": ["out.>"]}}), json!({}));
    let mut peer = Peer::new(&server);
    assert!(!peer.nonce.is_empty());
    peer.login(&jwt, &world.user);
    assert_eq!(peer.until("PONG\r\n"), "PONG\r\n");
    peer.send("SUB > 1\r\nPUB out.a 1\r\nx\r\nPUB other 1\r\nx\r\n");
    assert_eq!(
        peer.sync(),
        "MSG out.a 1 1\r\nx\r\n-ERR 'Permissions Violation for Publish to \"other\"'\r\nPONG\r\n"
    );
    let account = server.monitor().account(&world.account.public_key()).unwrap();
    assert_eq!(account.client_connections, 1);
}

#[test]
fn forged_expired_revoked_and_replayed_logins_are_refused() {
    let world = World::default();
    let revoked = KeyPair::new_user();
    let nats = json!({"revocations": {revoked.public_key(): now_seconds() + 60}});
    let server = start(&world.config("MEMORY", &[(&world.account, &world.account_token(nats))]));
    let refused = |what: &str, jwt: &str, key: &KeyPair| {
        let mut peer = Peer::new(&server);
        peer.login(jwt, key);
        assert_eq!(peer.until_closed(), VIOLATION, "{what}");
    };
    let good = world.user_token(json!({}), json!({}));
    refused("somebody else's key", &good, &KeyPair::new_user());
    refused(
        "no account that we know",
        &user_token(&KeyPair::new_account(), &world.user, json!({}), json!({})),
        &world.user,
    );
    let forged = {
        let other = world.user_token(json!({"pub": {"allow": ["a"]}}), json!({}));
        let (payload, signature) = (good.split('.').nth(1).unwrap(), other.split('.').nth(2).unwrap());
        format!("{}.{payload}.{signature}", good.split('.').next().unwrap())
    };
    refused("another token's signature", &forged, &world.user);
    refused("expired", &world.user_token(json!({}), json!({"exp": now_seconds() - 10})), &world.user);
    refused("revoked", &user_token(&world.account, &revoked, json!({}), json!({})), &revoked);
    refused("from elsewhere", &world.user_token(json!({"src": ["10.0.0.0/8"]}), json!({})), &world.user);
    refused("nothing", "", &world.user);
    // a signature over another connection's nonce
    let (first, mut second) = (Peer::new(&server), Peer::new(&server));
    second.connect(json!({"jwt": good, "sig": sign_text(&world.user, &first.nonce)}));
    assert_eq!(second.until_closed(), VIOLATION);
    // a bearer needs no signature
    let mut bearer = Peer::new(&server);
    bearer.connect(json!({"jwt": world.user_token(json!({"bearer_token": true}), json!({}))}));
    bearer.until("PONG\r\n");
}

#[test]
fn users_and_accounts_that_expire_are_sent_away() {
    let world = World::default();
    let account = world.account_token_of(&world.account, json!({}), json!({"exp": now_seconds() + 4}));
    let server = start(&world.config("MEMORY", &[(&world.account, &account)]));
    let mut long = Peer::new(&server);
    long.login(&world.user_token(json!({}), json!({})), &world.user);
    long.until("PONG\r\n");
    let mut short = Peer::new(&server);
    short.login(&world.user_token(json!({}), json!({"exp": now_seconds() + 2})), &world.user);
    short.until("PONG\r\n");
    assert_eq!(short.until_closed(), "-ERR 'User Authentication Expired'\r\n");
    assert!(long.until_closed().ends_with("-ERR 'Account Authentication Expired'\r\n"));
    let mut late = Peer::new(&server);
    late.login(&world.user_token(json!({}), json!({})), &world.user);
    assert_eq!(late.until_closed(), VIOLATION);
}

#[test]
fn a_reload_with_another_account_token_reaches_clients_that_are_in() {
    let world = World::default();
    let config = |nats| world.config("MEMORY", &[(&world.account, &world.account_token(nats))]);
    let server = start(&config(json!({})));
    let revoked = KeyPair::new_user();
    let enter = |jwt: &str, key: &KeyPair| {
        let mut peer = Peer::new(&server);
        peer.login(jwt, key);
        peer.until("PONG\r\n");
        peer
    };
    let mut going = enter(&user_token(&world.account, &revoked, json!({}), json!({})), &revoked);
    let mut staying = enter(&world.user_token(json!({}), json!({})), &world.user);
    staying.send("SUB a 1\r\nSUB b 2\r\n");
    staying.sync();
    let nats = json!({
        "revocations": {revoked.public_key(): now_seconds() + 60},
        "default_permissions": {"sub": {"allow": ["a"]}}
    });
    server.reload(settings(&config(nats))).unwrap();
    assert_eq!(going.until_closed(), "-ERR 'User Authentication Revoked'\r\n");
    let told = staying.until("'\r\n");
    assert_eq!(told, "-ERR 'Permissions Violation for Subscription to \"b\" (sid \"2\")'\r\n");
    staying.send("PUB b 1\r\nx\r\nPUB a 1\r\ny\r\n");
    assert_eq!(staying.sync(), "MSG a 1 1\r\ny\r\nPONG\r\n");
}

#[test]
fn an_account_bounds_its_connections_and_a_sentinel_lets_those_in_who_bring_nothing() {
    let world = World::default();
    let limits = json!({"limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": 1, "leaf": -1
    }});
    let sentinel = world.user_token(json!({"bearer_token": true}), json!({}));
    let config = world.config("MEMORY", &[(&world.account, &world.account_token(limits))]);
    let server = start(&format!("{config}default_sentinel: {sentinel}\n"));
    let mut first = Peer::new(&server);
    first.connect(json!({}));
    first.until("PONG\r\n");
    let mut second = Peer::new(&server);
    second.connect(json!({}));
    assert_eq!(second.until_closed(), "-ERR 'maximum account active connections exceeded'\r\n");
    drop(first);
    eventually("the place of a client that left is free", || {
        std::thread::sleep(Duration::from_millis(50));
        let mut next = Peer::new(&server);
        next.connect(json!({}));
        next.until("\r\n") == "PONG\r\n"
    });
}

#[test]
fn an_account_uses_the_service_and_the_stream_that_another_one_exports() {
    let (world, importer, user) = (World::default(), KeyPair::new_account(), KeyPair::new_user());
    let exports = json!({"exports": [
        {"name": "svc", "subject": "svc", "type": "service"}, {"name": "news", "subject": "news.>", "type": "stream"}
    ]});
    let from = world.account.public_key();
    let imports = json!({"imports": [
        {"name": "svc", "subject": "svc", "account": from, "local_subject": "their.svc", "type": "service"},
        {"name": "news", "subject": "news.>", "account": from, "local_subject": "their.news.>", "type": "stream"}
    ]});
    let tokens = (world.account_token(exports), world.account_token_of(&importer, imports, json!({})));
    let server = start(&world.config("MEMORY", &[(&world.account, &tokens.0), (&importer, &tokens.1)]));
    // the exporting account comes with the one that imports from it, before anybody logs in to it
    let mut asking = Peer::new(&server);
    asking.login(&user_token(&importer, &user, json!({}), json!({})), &user);
    asking.until("PONG\r\n");
    asking.send("SUB their.news.> 1\r\nSUB answers 2\r\n");
    asking.sync();
    let mut serving = Peer::new(&server);
    serving.login(&world.user_token(json!({}), json!({})), &world.user);
    serving.until("PONG\r\n");
    serving.send("SUB svc 1\r\nPUB news.today 1\r\nx\r\n");
    serving.sync();
    assert_eq!(asking.until("x\r\n"), "MSG their.news.today 1 1\r\nx\r\n");
    asking.send("PUB their.svc answers 1\r\n?\r\n");
    let request = serving.until("?\r\n");
    let reply = request.split(' ').nth(3).unwrap();
    serving.send(format!("PUB {reply} 1\r\n!\r\n"));
    assert_eq!(asking.until("!\r\n"), "MSG answers 2 1\r\n!\r\n");
}

/// A token of `exporter` that lets `importer` import a subject, until then in seconds since 1970.
fn activation(exporter: &KeyPair, importer: &KeyPair, subject: &str, kind: &str, until: i64) -> String {
    let nats = json!({"subject": subject, "kind": kind});
    mint(exporter, &importer.public_key(), "activation", nats, json!({"exp": until}))
}

#[test]
fn imports_end_when_the_activation_expires_that_let_them_in() {
    let (world, importer, user) = (World::default(), KeyPair::new_account(), KeyPair::new_user());
    let exports = json!({"exports": [
        {"name": "svc", "subject": "svc", "type": "service", "token_req": true},
        {"name": "news", "subject": "news.>", "type": "stream", "token_req": true},
        {"name": "sport", "subject": "sport", "type": "stream", "token_req": true}
    ]});
    let from = world.account.public_key();
    let end = now_seconds() + 3;
    let token = |subject, kind, until| activation(&world.account, &importer, subject, kind, until);
    let imports = json!({"imports": [
        {"name": "svc", "subject": "svc", "account": from, "type": "service", "token": token("svc", "service", end)},
        {"name": "news", "subject": "news.>", "account": from, "type": "stream",
         "token": token("news.>", "stream", end)},
        {"name": "sport", "subject": "sport", "account": from, "type": "stream",
         "token": token("sport", "stream", end + 60)}
    ]});
    let tokens = (world.account_token(exports), world.account_token_of(&importer, imports, json!({})));
    let server = start(&world.config("MEMORY", &[(&world.account, &tokens.0), (&importer, &tokens.1)]));
    let mut asking = Peer::new(&server);
    asking.connect(json!({
        "jwt": user_token(&importer, &user, json!({}), json!({})), "sig": sign_text(&user, &asking.nonce),
        "no_responders": true
    }));
    asking.until("PONG\r\n");
    asking.send("SUB news.> 1\r\nSUB sport 2\r\nSUB answers 3\r\n");
    asking.sync();
    let mut serving = Peer::new(&server);
    serving.login(&world.user_token(json!({}), json!({})), &world.user);
    serving.until("PONG\r\n");
    serving.send("SUB svc 1\r\n");
    serving.sync();
    // the server asks for a sign of life at any time
    let sync = |peer: &mut Peer| peer.sync().replace("PING\r\n", "");
    let mut exchange = |marker: &str| {
        serving.send(format!("PUB news.a 1\r\n{marker}\r\nPUB sport 1\r\n{marker}\r\n"));
        sync(&mut serving);
        let heard = sync(&mut asking);
        asking.send(format!("PUB svc answers 1\r\n{marker}\r\n"));
        (heard, sync(&mut asking), sync(&mut serving))
    };
    let (heard, _, asked) = exchange("a");
    assert!(now_seconds() < end, "the machine is too slow for this test");
    assert_eq!(heard, "MSG news.a 1 1\r\na\r\nMSG sport 2 1\r\na\r\nPONG\r\n");
    assert!(asked.starts_with("HMSG svc 1 _R_."), "{asked}");
    let left =
        Duration::from_secs(end as u64).saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    std::thread::sleep(left + Duration::from_millis(300));
    let (heard, told, asked) = exchange("b");
    assert_eq!(heard, "MSG sport 2 1\r\nb\r\nPONG\r\n", "the other import stays");
    assert!(told.starts_with("HMSG answers 3 "), "nobody answers any more: {told}");
    assert_eq!(asked, "PONG\r\n");
}
