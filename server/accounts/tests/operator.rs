//! Operator mode: tokens minted here, told apart from forged, expired, revoked and replayed ones.

use accounts::*;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::sync::Arc;

const NONCE: &[u8] = b"the nonce";
/// 2026-11-21 12:00:00 UTC.
const NOW: i64 = 1_795_262_400;

fn nanos(seconds: i64) -> u64 {
    seconds as u64 * 1_000_000_000
}

fn sign(pair: &KeyPair, header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = pair.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// A token of `subject`, signed by `pair`, with `extra` laid over the usual claims.
fn mint(pair: &KeyPair, subject: &str, kind: &str, nats: Value, extra: Value) -> String {
    let mut claims = json!({
        "iss": pair.public_key(), "sub": subject, "iat": NOW - 1000, "name": "a name", "jti": "X",
        "nats": nats,
    });
    claims["nats"]["type"] = kind.into();
    claims["nats"]["version"] = 2.into();
    for (key, value) in extra.as_object().unwrap() {
        claims[key] = value.clone();
    }
    sign(pair, &json!({"typ": "JWT", "alg": "ed25519-nkey"}), &claims)
}

fn limits() -> Value {
    json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1})
}

/// One operator, one account, one user.
struct World {
    operator: KeyPair,
    account: KeyPair,
    user: KeyPair,
}

impl World {
    fn new() -> World {
        World {
            operator: KeyPair::new_operator(),
            account: KeyPair::new_account(),
            user: KeyPair::new_user(),
        }
    }

    fn operator_token(&self, nats: Value) -> String {
        mint(&self.operator, &self.operator.public_key(), "operator", nats, json!({}))
    }

    fn account_token(&self, mut nats: Value, extra: Value) -> String {
        if nats.get("limits").is_none() {
            nats["limits"] = limits();
        }
        mint(&self.operator, &self.account.public_key(), "account", nats, extra)
    }

    fn source(&self, accounts: Vec<String>) -> AccountsSource {
        AccountsSource {
            operators: OperatorsSource {
                operators: vec![self.operator_token(json!({}))],
                accounts,
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn table(&self, nats: Value) -> Table {
        let table = Table::new(self.source(vec![self.account_token(nats, json!({}))]), nanos(NOW)).unwrap();
        assert_eq!(table.notes(), [""; 0]);
        table
    }

    fn user_token(&self, pair: &KeyPair, mut nats: Value, extra: Value) -> String {
        for limit in ["subs", "data", "payload"] {
            if nats.get(limit).is_none() {
                nats[limit] = (-1).into();
            }
        }
        mint(pair, &self.user.public_key(), "user", nats, extra)
    }

    fn signature(&self) -> String {
        BASE64URL_NOPAD.encode(&self.user.sign(NONCE).unwrap())
    }
}

fn peer() -> Peer<'static> {
    let address = Some("10.1.2.3".parse().unwrap());
    Peer { nonce: NONCE, connection: ConnectionType::Standard, certificate: None, address }
}

fn ask(table: &Table, jwt: &str, signature: &str) -> Result<Identity, AuthError> {
    table.authenticate(&Credentials { jwt, signature, ..Default::default() }, &peer(), nanos(NOW))
}

fn refusal(result: Result<Identity, AuthError>) -> Reason {
    match result.unwrap_err() {
        AuthError::Refused(reason) => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn a_user_of_a_trusted_account_is_let_in() {
    let world = World::new();
    let table = world.table(json!({}));
    assert!(table.auth_required() && table.nonce_required());
    let nats = json!({"pub": {"allow": ["foo.*"]}, "sub": {"deny": ["secret"]}, "subs": 5, "tags": ["a:b"]});
    let token = world.user_token(&world.account, nats, json!({"exp": NOW + 60}));
    let identity = ask(&table, &token, &world.signature()).unwrap();
    assert_eq!(*identity.account_name, *world.account.public_key());
    assert_eq!(identity.user, world.user.public_key());
    assert_eq!(identity.limits.subscriptions_max, Some(5));
    assert_eq!(identity.expires_unix_nanos, Some(nanos(NOW + 60)));
    let permissions = identity.permissions.unwrap();
    assert!(permissions.can_publish(b"foo.x") && !permissions.can_publish(b"bar"));
    assert_eq!(permissions.can_subscribe(b"secret", None), Subscribe::Denied);
    let shown = identity.token.unwrap();
    assert_eq!((shown.name.as_str(), shown.tags), ("a name", vec!["a:b".to_owned()]));
    assert_eq!(shown.signing_key, world.account.public_key());
}

#[test]
fn forged_and_broken_tokens_are_refused() {
    let world = World::new();
    let table = world.table(json!({}));
    let good = world.user_token(&world.account, json!({}), json!({}));
    let signature = world.signature();
    assert!(ask(&table, &good, &signature).is_ok());
    assert_eq!(refusal(ask(&table, "", &signature)), Reason::JwtRequired);

    let parts: Vec<&str> = good.split('.').collect();
    let mut claims: Value =
        serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap()).unwrap();
    claims["nats"]["bearer_token"] = true.into();
    let forged =
        format!("{}.{}.{}", parts[0], BASE64URL_NOPAD.encode(claims.to_string().as_bytes()), parts[2]);
    let unsigned = format!("{}.{}.", BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#), parts[1]);
    let stranger = KeyPair::new_account();
    // Signed by the user itself, and by a stranger who claims to be the account.
    let own = world.user_token(&world.user, json!({}), json!({}));
    let posing = world.user_token(&stranger, json!({}), json!({"iss": world.account.public_key()}));
    let of_account = world.account_token(json!({}), json!({}));
    for bad in [
        forged,
        unsigned,
        own,
        posing,
        of_account,
        "a.b".into(),
        "....".into(),
        format!("{good}x"),
        "é.é.é".into(),
    ] {
        assert!(matches!(refusal(ask(&table, &bad, &signature)), Reason::Jwt(_)), "{bad}");
    }
    // A key that the account never named as one of its own.
    let nats = json!({"issuer_account": world.account.public_key()});
    let unknown = world.user_token(&stranger, nats, json!({}));
    assert_eq!(refusal(ask(&table, &unknown, &signature)), Reason::UnknownIssuer);
    // An account nobody handed in: the caller fetches it, and the operator's signature decides.
    let other = world.user_token(&stranger, json!({}), json!({}));
    assert_eq!(ask(&table, &other, &signature).unwrap_err(), AuthError::AccountNeeded(stranger.public_key()));
    let self_signed =
        mint(&stranger, &stranger.public_key(), "account", json!({"limits": limits()}), json!({}));
    assert!(
        table.with_account(&self_signed, nanos(NOW)).unwrap_err().to_string().contains("trusted operator")
    );
    let other_operator = KeyPair::new_operator();
    let foreign =
        mint(&other_operator, &stranger.public_key(), "account", json!({"limits": limits()}), json!({}));
    assert!(table.with_account(&foreign, nanos(NOW)).is_err());
}

#[test]
fn the_nonce_is_signed_by_the_user_unless_the_token_bears() {
    let world = World::new();
    let table = world.table(json!({}));
    let token = world.user_token(&world.account, json!({}), json!({}));
    let replayed = BASE64URL_NOPAD.encode(&world.user.sign(b"nonce of another connection").unwrap());
    let other = BASE64URL_NOPAD.encode(&KeyPair::new_user().sign(NONCE).unwrap());
    for bad in [replayed.as_str(), other.as_str(), "", "?"] {
        assert_eq!(refusal(ask(&table, &token, bad)), Reason::Signature);
    }
    let bearer = world.user_token(&world.account, json!({"bearer_token": true}), json!({}));
    assert!(ask(&table, &bearer, "").is_ok());
    let mut strict = limits();
    strict["disallow_bearer"] = true.into();
    assert_eq!(refusal(ask(&world.table(json!({"limits": strict})), &bearer, "")), Reason::Bearer);
}

#[test]
fn expired_and_early_tokens_are_refused() {
    let world = World::new();
    let table = world.table(json!({}));
    let signature = world.signature();
    let with = |extra| ask(&table, &world.user_token(&world.account, json!({}), extra), &signature);
    assert!(matches!(refusal(with(json!({"exp": NOW - 1}))), Reason::JwtExpired(_)));
    assert!(matches!(refusal(with(json!({"nbf": NOW + 1}))), Reason::JwtExpired(_)));
    assert!(with(json!({"exp": NOW + 1, "nbf": NOW - 1})).is_ok());
    // The account's expiry counts later, too.
    let token = world.account_token(json!({}), json!({"exp": NOW + 10}));
    let table = Table::new(world.source(vec![token]), nanos(NOW)).unwrap();
    let id = table.find(&world.account.public_key()).unwrap();
    assert_eq!(table.account(id).unwrap().expires_seconds(), Some(NOW + 10));
    let user = world.user_token(&world.account, json!({}), json!({}));
    let credentials = Credentials { jwt: &user, signature: &signature, ..Default::default() };
    assert!(table.authenticate(&credentials, &peer(), nanos(NOW + 9)).is_ok());
    assert_eq!(refusal(table.authenticate(&credentials, &peer(), nanos(NOW + 10))), Reason::AccountExpired);
    let expired = world.account_token(json!({}), json!({"exp": NOW - 1}));
    let table = Table::new(world.source(vec![expired]), nanos(NOW)).unwrap();
    assert!(table.notes()[0].contains("claim is expired"), "{:?}", table.notes());
}

#[test]
fn revoked_users_are_refused() {
    let world = World::new();
    let signature = world.signature();
    let issued = |at: i64| world.user_token(&world.account, json!({}), json!({"iat": at}));
    for key in [world.user.public_key(), "*".into()] {
        let table = world.table(json!({"revocations": {key: NOW}}));
        assert_eq!(refusal(ask(&table, &issued(NOW), &signature)), Reason::Revoked);
        assert_eq!(refusal(ask(&table, &issued(NOW - 5), &signature)), Reason::Revoked);
        assert!(ask(&table, &issued(NOW + 1), &signature).is_ok());
    }
    // Revoking takes effect in the next table.
    let before = world.table(json!({}));
    assert!(ask(&before, &issued(NOW), &signature).is_ok());
    let revoked = world.account_token(json!({"revocations": {"*": NOW}}), json!({}));
    let after = before.with_account(&revoked, nanos(NOW)).unwrap();
    assert_eq!(before.find(&world.account.public_key()), after.find(&world.account.public_key()));
    assert_eq!(refusal(ask(&after, &issued(NOW), &signature)), Reason::Revoked);
    let without = after.without_account(&world.account.public_key(), nanos(NOW)).unwrap();
    assert!(matches!(ask(&without, &issued(NOW + 1), &signature), Err(AuthError::AccountNeeded(_))));
}

#[test]
fn scoped_keys_give_the_scope_and_nothing_else() {
    let world = World::new();
    let (scoped, plain) = (KeyPair::new_account(), KeyPair::new_account());
    let template = json!({"pub": {"allow": ["u.{{name()}}.>"]}, "subs": 3, "data": -1, "payload": -1});
    let table = world.table(json!({"signing_keys": [
        plain.public_key(),
        {"kind": "user_scope", "key": scoped.public_key(), "role": "r", "template": template},
    ]}));
    let of_account = json!({"issuer_account": world.account.public_key()});
    let scoped_user = |nats: Value| {
        let mut claims = nats;
        claims["issuer_account"] = world.account.public_key().into();
        mint(&scoped, &world.user.public_key(), "user", claims, json!({}))
    };
    let signature = world.signature();
    let identity = ask(&table, &scoped_user(json!({})), &signature).unwrap();
    assert_eq!(identity.limits.subscriptions_max, Some(3));
    let permissions = identity.permissions.unwrap();
    // The name of the token holds a space, so the template makes no valid subject of it and denies all.
    assert!(!permissions.can_publish(b"u.a.x") && !permissions.can_publish(b"x"));
    let claims = json!({"issuer_account": world.account.public_key()});
    let named = mint(&scoped, &world.user.public_key(), "user", claims, json!({"name": "joe"}));
    let permissions = ask(&table, &named, &signature).unwrap().permissions.unwrap();
    assert!(permissions.can_publish(b"u.joe.x") && !permissions.can_publish(b"u.jim.x"));
    for more in [json!({"pub": {"allow": [">"]}}), json!({"subs": -1}), json!({"bearer_token": true})] {
        assert_eq!(refusal(ask(&table, &scoped_user(more), &signature)), Reason::ScopedPermissions);
    }
    let by_plain = world.user_token(&plain, of_account.clone(), json!({}));
    assert!(ask(&table, &by_plain, &signature).unwrap().permissions.is_none());
    // Once the key is gone, so are its users.
    let fewer = table.with_account(&world.account_token(json!({}), json!({})), nanos(NOW)).unwrap();
    assert_eq!(refusal(ask(&fewer, &by_plain, &signature)), Reason::UnknownIssuer);
}

#[test]
fn strict_operators_bind_accounts_to_signing_keys() {
    let world = World::new();
    let key = KeyPair::new_operator();
    let signing = KeyPair::new_account();
    let nats = json!({"limits": limits(), "signing_keys": [signing.public_key()]});
    let account = mint(&key, &world.account.public_key(), "account", nats, json!({}));
    let mut source = world.source(vec![account]);
    let strict = json!({"strict_signing_key_usage": true, "signing_keys": [key.public_key()]});
    source.operators.operators = vec![world.operator_token(strict)];
    let table = Table::new(source, nanos(NOW)).unwrap();
    assert_eq!(table.notes(), [""; 0]);
    let by_account = world.user_token(&world.account, json!({}), json!({}));
    assert_eq!(refusal(ask(&table, &by_account, &world.signature())), Reason::UnknownIssuer);
    let nats = json!({"issuer_account": world.account.public_key()});
    assert!(ask(&table, &world.user_token(&signing, nats, json!({})), &world.signature()).is_ok());
    // The operator's own key signs no account either.
    assert!(table.with_account(&world.account_token(json!({}), json!({})), nanos(NOW)).is_err());
}

#[test]
fn networks_times_and_connection_types_bound_users() {
    let world = World::new();
    let table = world.table(json!({}));
    let signature = world.signature();
    let with = |nats: Value| ask(&table, &world.user_token(&world.account, nats, json!({})), &signature);
    assert!(with(json!({"src": ["10.0.0.0/8"]})).is_ok());
    assert!(with(json!({"src": "192.168.0.0/16, 10.1.0.0/16"})).is_ok());
    assert_eq!(refusal(with(json!({"src": ["192.168.0.0/16"]}))), Reason::Source);
    assert!(matches!(refusal(with(json!({"src": ["nowhere"]}))), Reason::JwtExpired(_)));
    let range = |start: &str, end: &str, place: &str| json!({"times": [{"start": start, "end": end}], "times_location": place});
    let inside = with(range("11:00:00", "12:00:30", "")).unwrap();
    assert_eq!(inside.expires_unix_nanos, Some(nanos(NOW + 30)));
    assert_eq!(refusal(with(range("13:00:00", "14:00:00", ""))), Reason::Times);
    assert_eq!(with(range("22:00:00", "12:01:00", "")).unwrap().expires_unix_nanos, Some(nanos(NOW + 60)));
    assert_eq!(
        with(range("11:00:00", "06:00:00", "")).unwrap().expires_unix_nanos,
        Some(nanos(NOW + 18 * 3600))
    );
    // 21:00 in Tokyo.
    assert_eq!(
        with(range("20:00:00", "21:00:10", "Asia/Tokyo")).unwrap().expires_unix_nanos,
        Some(nanos(NOW + 10))
    );
    assert_eq!(refusal(with(range("11:00:00", "13:00:00", "Asia/Tokyo"))), Reason::Times);
    assert!(with(json!({"allowed_connection_types": ["STANDARD", "TELEPATHY"]})).is_ok());
    for types in [json!(["MQTT"]), json!(["TELEPATHY"])] {
        assert_eq!(refusal(with(json!({"allowed_connection_types": types}))), Reason::ConnectionType);
    }
    assert_eq!(refusal(with(json!({"proxy_required": true}))), Reason::ProxyRequired);
}

#[test]
fn default_permissions_and_limits_of_the_account() {
    let world = World::new();
    let mut bounds = limits();
    bounds["subs"] = 10.into();
    bounds["conn"] = 2.into();
    bounds["payload"] = 100.into();
    let defaults = json!({"limits": bounds, "default_permissions": {"pub": {"allow": ["default"]}}});
    let table = world.table(defaults);
    let token = world.user_token(&world.account, json!({"subs": 20, "payload": 50}), json!({}));
    let identity = ask(&table, &token, &world.signature()).unwrap();
    assert_eq!(
        identity.limits,
        ConnectionLimits { subscriptions_max: Some(10), payload_bytes_max: Some(50) }
    );
    assert!(identity.permissions.unwrap().can_publish(b"default"));
    assert_eq!(table.account(identity.account).unwrap().limits.connections_max, Some(2));
}

#[test]
fn pinned_accounts_and_the_sentinel() {
    let world = World::new();
    let mut source = world.source(vec![world.account_token(json!({}), json!({}))]);
    source.operators.pinned_accounts = vec![KeyPair::new_account().public_key()];
    let table = Table::new(source.clone(), nanos(NOW)).unwrap();
    let token = world.user_token(&world.account, json!({}), json!({}));
    assert!(matches!(refusal(ask(&table, &token, &world.signature())), Reason::NotPinned(_)));
    source.operators.pinned_accounts.clear();
    source.operators.default_sentinel =
        Some(world.user_token(&world.account, json!({"bearer_token": true}), json!({})));
    let table = Table::new(source.clone(), nanos(NOW)).unwrap();
    assert!(ask(&table, "", "").is_ok());
    source.operators.default_sentinel = Some(token);
    assert!(Table::new(source, nanos(NOW)).unwrap_err().to_string().contains("must be a bearer token"));
}

#[test]
fn operator_mode_excludes_configured_users_and_accounts() {
    let world = World::new();
    let refused = |source: AccountsSource| Table::new(source, nanos(NOW)).unwrap_err().to_string();
    let mut source = world.source(vec![]);
    source.accounts = vec![AccountSource { name: "A".into(), ..Default::default() }];
    assert!(refused(source).contains("do not allow Accounts to be configured"));
    let mut source = world.source(vec![]);
    source.operators.trusted_keys = vec![world.operator.public_key()];
    assert!(refused(source).contains("conflicting options"));
    let mut source = world.source(vec![]);
    source.operators.operators = vec![world.operator_token(json!({"assert_server_version": "3.0.0"}))];
    assert!(refused(source).contains("expects version 3.0.0"));
    let mut source = world.source(vec![]);
    let system = KeyPair::new_account().public_key();
    source.operators.operators = vec![world.operator_token(json!({"system_account": system.clone()}))];
    let table = Table::new(source.clone(), nanos(NOW)).unwrap();
    assert_eq!(*table.account(table.system_account().unwrap()).unwrap().name, *system);
    source.system_account = Some(world.account.public_key());
    assert!(refused(source).contains("must be identical"));
}

/// An exporting account with a private stream, and a token that lets another account in.
struct Exchange {
    world: World,
    importer: KeyPair,
    signing: KeyPair,
}

impl Exchange {
    fn new() -> Exchange {
        Exchange { world: World::new(), importer: KeyPair::new_account(), signing: KeyPair::new_account() }
    }

    fn exporter(&self, revocations: Value) -> String {
        self.world.account_token(
            json!({
                "signing_keys": [self.signing.public_key()],
                "exports": [
                    {"subject": "news.>", "type": "stream", "token_req": true, "revocations": revocations},
                    {"subject": "help.*", "type": "service", "response_type": "Stream",
                     "account_token_position": 2},
                ],
            }),
            json!({}),
        )
    }

    fn activation(&self, pair: &KeyPair, mut nats: Value, extra: Value) -> String {
        if nats.get("subject").is_none() {
            nats["subject"] = "news.>".into();
        }
        nats["kind"] = "stream".into();
        mint(pair, &self.importer.public_key(), "activation", nats, extra)
    }

    fn table(&self, exporter: String, import: Value) -> Result<Table, String> {
        let nats = json!({"limits": limits(), "imports": [import]});
        let importer = mint(&self.world.operator, &self.importer.public_key(), "account", nats, json!({}));
        let table = Table::new(self.world.source(vec![importer, exporter]), nanos(NOW)).unwrap();
        match table.notes() {
            [] => Ok(table),
            [note, ..] => Err(note.clone()),
        }
    }

    fn import(&self, token: String) -> Value {
        json!({
            "subject": "news.a.*", "account": self.world.account.public_key(), "type": "stream",
            "local_subject": "local.$1", "token": token,
        })
    }
}

#[test]
fn activation_tokens_open_private_exports() {
    let exchange = Exchange::new();
    let account = &exchange.world.account;
    let open = |token: String, revocations: Value| {
        exchange.table(exchange.exporter(revocations), exchange.import(token))
    };
    let good = exchange.activation(account, json!({}), json!({"exp": NOW + 100}));
    let table = open(good.clone(), json!({})).unwrap();
    let imports = &table.account(table.find(&exchange.importer.public_key()).unwrap()).unwrap().imports;
    assert_eq!((&*imports.streams[0].to, imports.streams[0].expires_seconds), ("local.*", Some(NOW + 100)));
    let mut out = vec![];
    imports.streams[0].local(b"news.a.b", &mut out);
    assert_eq!(out, b"local.b");

    let by_key = json!({"issuer_account": account.public_key()});
    assert!(open(exchange.activation(&exchange.signing, by_key.clone(), json!({})), json!({})).is_ok());
    let stranger = KeyPair::new_account();
    for (what, token) in [
        ("expired", exchange.activation(account, json!({}), json!({"exp": NOW - 1}))),
        ("early", exchange.activation(account, json!({}), json!({"nbf": NOW + 10}))),
        ("stranger", exchange.activation(&stranger, json!({}), json!({}))),
        ("stranger posing", exchange.activation(&stranger, by_key, json!({}))),
        ("other subject", exchange.activation(account, json!({"subject": "other"}), json!({}))),
        ("other account", exchange.activation(account, json!({}), json!({"sub": stranger.public_key()}))),
        ("none", String::new()),
    ] {
        assert!(open(token, json!({})).is_err(), "{what}");
    }
    for key in [exchange.importer.public_key(), "*".into()] {
        assert!(open(good.clone(), json!({key: NOW})).unwrap_err().contains("not authorized"));
    }
}

#[test]
fn imports_end_when_their_activation_expires_unless_it_was_renewed() {
    let exchange = Exchange::new();
    let importer = exchange.importer.public_key();
    let until = |end: i64| {
        let token = exchange.activation(&exchange.world.account, json!({}), json!({"exp": end}));
        json!({"limits": limits(), "imports": [exchange.import(token)]})
    };
    let token = |nats| mint(&exchange.world.operator, &importer, "account", nats, json!({}));
    let streams =
        |table: &Table| table.account(table.find(&importer).unwrap()).unwrap().imports.streams.len();
    let tokens = vec![token(until(NOW + 100)), exchange.exporter(json!({}))];
    let table = Table::new(exchange.world.source(tokens), nanos(NOW)).unwrap();
    assert_eq!(table.activation_expires_seconds(), Some(NOW + 100));
    assert!(table.without_expired(nanos(NOW + 99) + 999_999_999).unwrap().is_none(), "a moment before");
    let ended = table.without_expired(nanos(NOW + 100)).unwrap().unwrap();
    assert_eq!((streams(&table), streams(&ended), ended.activation_expires_seconds()), (1, 0, None));
    let renewed = table.with_account(&token(until(NOW + 200)), nanos(NOW + 50)).unwrap();
    assert!(renewed.without_expired(nanos(NOW + 100)).unwrap().is_none());
    assert_eq!(streams(&renewed), 1);
}

#[test]
fn accounts_for_whom_nothing_changes_are_taken_over_as_they_are() {
    let (world, system) = (World::new(), KeyPair::new_account());
    let (importer, bystander) = (KeyPair::new_account(), KeyPair::new_account());
    let token = |pair: &KeyPair, mut nats: Value| {
        nats["limits"] = limits();
        mint(&world.operator, &pair.public_key(), "account", nats, json!({}))
    };
    let exports =
        |subject: &str| token(&world.account, json!({"exports": [{"subject": subject, "type": "stream"}]}));
    let imports = json!({"imports": [
        {"subject": "news", "account": world.account.public_key(), "type": "stream", "local_subject": "news"}
    ]});
    let tokens = vec![token(&system, json!({})), exports("news"), token(&importer, imports)];
    let mut source = world.source(tokens);
    source.operators.operators = vec![world.operator_token(json!({"system_account": system.public_key()}))];
    let first = Table::new(source, nanos(NOW)).unwrap();
    let account = |table: &Table, pair: &KeyPair| {
        table.account(table.find(&pair.public_key()).unwrap()).unwrap().clone()
    };
    let same =
        |one: &Table, two: &Table, pair: &KeyPair| Arc::ptr_eq(&account(one, pair), &account(two, pair));
    let second = first.with_account(&token(&bystander, json!({})), nanos(NOW)).unwrap();
    assert!(same(&first, &second, &system) && same(&first, &second, &world.account));
    let services = |table: &Table, pair: &KeyPair| account(table, pair).imports.services.len();
    assert_eq!(services(&second, &bystander), services(&second, &world.account), "of the system account");
    assert_eq!(account(&second, &importer).imports.streams.len(), 1);
    // who imports hears of what the exporter takes back
    let third = second.with_account(&exports("other"), nanos(NOW)).unwrap();
    assert_eq!(account(&third, &importer).imports.streams.len(), 0);
    assert!(same(&second, &third, &bystander) && !same(&second, &third, &world.account));
    // what all import from the system account may change with it
    let fourth = third.with_account(&token(&system, json!({"name": "x"})), nanos(NOW)).unwrap();
    assert!(!same(&third, &fourth, &bystander));
    let fifth = fourth.without_account(&bystander.public_key(), nanos(NOW)).unwrap();
    assert!(account(&fifth, &bystander).is_removed && same(&fourth, &fifth, &system));
    let sixth = fifth.with_account(&token(&bystander, json!({})), nanos(NOW)).unwrap();
    assert!(!account(&sixth, &bystander).is_removed);
}

#[test]
fn services_may_belong_to_the_account_in_their_subject() {
    let exchange = Exchange::new();
    let import = |subject: String| {
        let account = exchange.world.account.public_key();
        let import =
            json!({"subject": subject, "account": account, "type": "service", "local_subject": "ask"});
        exchange.table(exchange.exporter(json!({})), import)
    };
    let table = import(format!("help.{}", exchange.importer.public_key())).unwrap();
    let imports = &table.account(table.find(&exchange.importer.public_key()).unwrap()).unwrap().imports;
    assert_eq!(&*imports.services[0].from, "ask");
    assert!(import("help.other".into()).unwrap_err().contains("service import not authorized"));
}

#[test]
fn imports_from_accounts_not_handed_in_yet_come_later() {
    let exchange = Exchange::new();
    let token = exchange.activation(&exchange.world.account, json!({}), json!({}));
    let nats = json!({"limits": limits(), "imports": [exchange.import(token)]});
    let importer =
        mint(&exchange.world.operator, &exchange.importer.public_key(), "account", nats, json!({}));
    let table = Table::new(exchange.world.source(vec![importer]), nanos(NOW)).unwrap();
    assert_eq!(table.missing_accounts(), [exchange.world.account.public_key()]);
    let table = table.with_account(&exchange.exporter(json!({})), nanos(NOW)).unwrap();
    assert_eq!(table.missing_accounts(), [""; 0]);
    let importer = table.account(table.find(&exchange.importer.public_key()).unwrap()).unwrap();
    assert_eq!(importer.imports.streams.len(), 1);
}

#[test]
fn version_one_tokens_still_count() {
    let world = World::new();
    let table = world.table(json!({}));
    let claims = json!({
        "iss": world.account.public_key(), "sub": world.user.public_key(), "iat": NOW - 10, "name": "old",
        "type": "user", "tags": ["t"], "nats": {"pub": {"allow": ["a"]}},
    });
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let (header, body) = (encode(&json!({"typ": "jwt", "alg": "ed25519"})), encode(&claims));
    let signature = BASE64URL_NOPAD.encode(&world.account.sign(body.as_bytes()).unwrap());
    let identity = ask(&table, &format!("{header}.{body}.{signature}"), &world.signature()).unwrap();
    assert_eq!(identity.limits, ConnectionLimits::default());
    assert!(!identity.permissions.unwrap().can_publish(b"b"));
    assert_eq!(identity.token.unwrap().tags, ["t"]);
}
