//! What tests of logins share: a raw client, and tokens minted as nats-io/jwt writes them.
#![allow(dead_code)] // each test uses its part

use config::{Config, Settings};
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use node::Server;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn settings(text: &str) -> Settings {
    let text = format!("listen: \"127.0.0.1:-1\"\n{text}");
    let checked = Settings::from_config(&Config::parse_text(&text).unwrap()).unwrap();
    checked.settings.validate().unwrap();
    checked.settings
}

pub fn start(text: &str) -> Server {
    Server::start(settings(text)).unwrap()
}

pub fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A peer that speaks raw protocol.
pub struct Peer {
    stream: TcpStream,
    read: Vec<u8>,
    pub nonce: String,
}

impl Peer {
    /// Connects and reads INFO.
    pub fn new(server: &Server) -> Peer {
        let url = server.client_url();
        let stream = TcpStream::connect(url.strip_prefix("nats://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Peer { stream, read: Vec::new(), nonce: String::new() };
        let line = peer.until("\r\n");
        let info: Value = serde_json::from_str(line.trim_start_matches("INFO ").trim()).unwrap();
        peer.nonce = info["nonce"].as_str().unwrap_or_default().into();
        peer
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// CONNECT with these fields, and PING.
    pub fn connect(&mut self, fields: Value) {
        let mut fields = fields;
        fields["verbose"] = false.into();
        fields["headers"] = true.into();
        self.send(format!("CONNECT {fields}\r\nPING\r\n"));
    }

    /// CONNECT with a token, the nonce signed by `user`.
    pub fn login(&mut self, jwt: &str, user: &KeyPair) {
        let signature = sign_text(user, &self.nonce);
        self.connect(json!({"jwt": jwt, "sig": signature}));
    }

    /// Reads up to and with `end`.
    pub fn until(&mut self, end: &str) -> String {
        let mut chunk = vec![0; 1 << 16];
        let mut searched = 0;
        loop {
            let found = self.read[searched..].windows(end.len()).position(|w| w == end.as_bytes());
            if let Some(at) = found.map(|at| searched + at) {
                let rest = self.read.split_off(at + end.len());
                return String::from_utf8_lossy(&std::mem::replace(&mut self.read, rest)).into_owned();
            }
            searched = self.read.len().saturating_sub(end.len() - 1);
            let count = self.stream.read(&mut chunk).unwrap();
            assert!(count > 0, "the server hung up; read so far: {}", String::from_utf8_lossy(&self.read));
            self.read.extend_from_slice(&chunk[..count]);
        }
    }

    /// Sends PING and reads what comes up to its PONG.
    pub fn sync(&mut self) -> String {
        self.send("PING\r\n");
        self.until("PONG\r\n")
    }

    /// Reads until the server hangs up.
    pub fn until_closed(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        self.read.append(&mut rest);
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

pub fn sign_text(pair: &KeyPair, text: &str) -> String {
    BASE64URL_NOPAD.encode(&pair.sign(text.as_bytes()).unwrap())
}

/// A token of `subject`, signed by `pair`, with `extra` laid over the usual claims.
pub fn mint(pair: &KeyPair, subject: &str, kind: &str, mut nats: Value, extra: Value) -> String {
    nats["type"] = kind.into();
    nats["version"] = 2.into();
    let id: u64 = fastrand_like();
    let mut claims = json!({
        "iss": pair.public_key(), "sub": subject, "iat": now_seconds(), "name": kind, "jti": id.to_string(),
        "nats": nats,
    });
    for (key, value) in extra.as_object().unwrap() {
        claims[key] = value.clone();
    }
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&claims));
    let signature = sign_text(pair, &signed);
    format!("{signed}.{signature}")
}

fn fastrand_like() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// One operator, its system account, one account with one user.
pub struct World {
    pub operator: KeyPair,
    pub system: KeyPair,
    pub system_user: KeyPair,
    pub account: KeyPair,
    pub user: KeyPair,
}

impl Default for World {
    fn default() -> World {
        World {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            system_user: KeyPair::new_user(),
            account: KeyPair::new_account(),
            user: KeyPair::new_user(),
        }
    }
}

impl World {
    pub fn operator_token(&self) -> String {
        let nats = json!({"system_account": self.system.public_key()});
        mint(&self.operator, &self.operator.public_key(), "operator", nats, json!({}))
    }

    pub fn account_token_of(&self, account: &KeyPair, mut nats: Value, extra: Value) -> String {
        if nats.get("limits").is_none() {
            nats["limits"] = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                "conn": -1, "leaf": -1
            });
        }
        mint(&self.operator, &account.public_key(), "account", nats, extra)
    }

    pub fn account_token(&self, nats: Value) -> String {
        self.account_token_of(&self.account, nats, json!({}))
    }

    pub fn system_token(&self) -> String {
        self.account_token_of(&self.system, json!({}), json!({}))
    }

    pub fn user_token(&self, nats: Value, extra: Value) -> String {
        user_token(&self.account, &self.user, nats, extra)
    }

    pub fn system_user_token(&self) -> String {
        user_token(&self.system, &self.system_user, json!({}), json!({}))
    }

    /// Operator and `resolver_preload` of the system account and `accounts`.
    pub fn config(&self, resolver: &str, accounts: &[(&KeyPair, &str)]) -> String {
        let mut preload = format!("{}: {}\n", self.system.public_key(), self.system_token());
        for (key, token) in accounts {
            preload += &format!("{}: {token}\n", key.public_key());
        }
        format!(
            "operator: {}\nresolver: {resolver}\nresolver_preload: {{\n{preload}}}\n",
            self.operator_token()
        )
    }
}

/// A user's token, without bounds unless `nats` has them.
pub fn user_token(signer: &KeyPair, user: &KeyPair, mut nats: Value, extra: Value) -> String {
    for limit in ["subs", "data", "payload"] {
        if nats.get(limit).is_none() {
            nats[limit] = (-1).into();
        }
    }
    mint(signer, &user.public_key(), "user", nats, extra)
}
