//! No token makes the server panic, however its claims are made up, and a token whose signature does not hold opens
//! nothing.
//!
//! The first byte says what the rest is: a whole token, or the claims of one that is signed here, because nearly
//! nothing that a fuzzer writes would pass a signature's check.
#![no_main]

use accounts::{AccountsSource, ConnectionType, Credentials, OperatorsSource, Peer, Table, jwt};
use data_encoding::BASE64URL_NOPAD;
use libfuzzer_sys::fuzz_target;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// 2026-11-21 12:00:00 UTC, in nanoseconds.
const NOW: u64 = 1_795_262_400_000_000_000;
const NONCE: &[u8] = b"nonce";

struct World {
    operator: KeyPair,
    account: KeyPair,
    user: KeyPair,
    operator_token: String,
    account_token: String,
    user_token: String,
    signature: String,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let pair = |kind, byte| KeyPair::new_from_raw(kind, [byte; 32]).unwrap();
    let operator = pair(KeyPairType::Operator, 1);
    let account = pair(KeyPairType::Account, 2);
    let user = pair(KeyPairType::User, 3);
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1});
    World {
        operator_token: mint(&operator, &operator, "operator", json!({"nats": {}})),
        account_token: mint(&operator, &account, "account", json!({"nats": {"limits": limits}})),
        user_token: mint(&account, &user, "user", json!({"nats": {"subs": -1, "data": -1, "payload": -1}})),
        signature: BASE64URL_NOPAD.encode(&user.sign(NONCE).unwrap()),
        operator,
        account,
        user,
    }
});

/// The claims as a token of `subject`, signed by `issuer`; what the claims say of either stands.
fn mint(issuer: &KeyPair, subject: &KeyPair, kind: &str, mut claims: Value) -> String {
    if let Some(outer) = claims.as_object_mut() {
        outer.insert("iss".into(), issuer.public_key().into());
        outer.entry("sub").or_insert_with(|| subject.public_key().into());
        let nats = outer.entry("nats").or_insert_with(|| json!({}));
        if let Some(nats) = nats.as_object_mut() {
            nats.insert("type".into(), kind.into());
            nats.entry("version").or_insert(2.into());
        }
    }
    let encode = |text: String| BASE64URL_NOPAD.encode(text.as_bytes());
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"}).to_string();
    let signed = format!("{}.{}", encode(header), encode(claims.to_string()));
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn table(world: &World, operator: &str, account: &str) -> Option<Table> {
    let operators = OperatorsSource {
        operators: vec![operator.to_owned()],
        accounts: vec![world.account_token.clone(), account.to_owned()],
        ..OperatorsSource::default()
    };
    Table::new(AccountsSource { operators, ..AccountsSource::default() }, NOW).ok()
}

fn login(table: &Table, jwt: &str, signature: &str) -> bool {
    let credentials = Credentials { jwt, signature, ..Credentials::default() };
    let address = "10.1.2.3".parse().ok();
    let peer = Peer { nonce: NONCE, connection: ConnectionType::Standard, certificate: None, address };
    table.authenticate(&credentials, &peer, NOW).is_ok()
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    let world = &*WORLD;
    if kind % 5 == 0 {
        // nobody here signed it, unless it is one of ours as it stands
        let ours = [&world.operator_token, &world.account_token, &world.user_token];
        let is_ours = ours.iter().any(|token| *token == text);
        let _ = (jwt::operator(text), jwt::activation(text), jwt::generic(text));
        let table = table(world, &world.operator_token, text).expect("an account's token is left out, no more");
        assert!(is_ours || !login(&table, text, &world.signature), "let in: {text}");
        return;
    }
    let Ok(claims) = serde_json::from_str::<Value>(text) else { return };
    match kind % 5 {
        1 => {
            let token = mint(&world.operator, &world.account, "account", claims);
            let table = table(world, &world.operator_token, &token).expect("a bad account is left out");
            login(&table, &world.user_token, &world.signature);
            assert!(!login(&table, &world.user_token, ""), "no signature of the nonce");
        }
        2 => {
            let token = mint(&world.account, &world.user, "user", claims);
            let table = table(world, &world.operator_token, &world.account_token).expect("ours");
            login(&table, &token, &world.signature);
        }
        3 => {
            let token = mint(&world.operator, &world.operator, "operator", claims);
            if let Some(table) = table(world, &token, &world.account_token) {
                login(&table, &world.user_token, &world.signature);
            }
        }
        _ => {
            let _ = jwt::activation(&mint(&world.account, &world.account, "activation", claims));
        }
    }
});
