//! Tokens of operator mode, minted as nats-io/jwt writes them, and clients that log in with them.

use anyhow::{Context as _, Result};
use async_nats::ConnectOptions;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// An operator with its system account.
pub struct Operator {
    key: KeyPair,
    /// The system account, and its only user.
    pub system: Account,
    token: String,
    system_token: String,
}

/// An account with one user.
pub struct Account {
    key: KeyPair,
    user: Arc<KeyPair>,
}

impl Account {
    /// New keys.
    pub fn new() -> Account {
        Account { key: KeyPair::new_account(), user: Arc::new(KeyPair::new_user()) }
    }

    /// Its public key: its name.
    pub fn name(&self) -> String {
        self.key.public_key()
    }

    /// Its file in a folder of tokens.
    pub fn file(&self) -> String {
        format!("{}.jwt", self.name())
    }

    /// The token of its user, without bounds.
    pub fn user_token(&self) -> Result<String> {
        let nats = json!({"subs": -1, "data": -1, "payload": -1});
        mint(&self.key, &self.user.public_key(), "user", nats, now_seconds())
    }

    /// What its user sends with a nonce.
    pub fn signature(&self, nonce: &[u8]) -> Result<String> {
        Ok(BASE64URL_NOPAD.encode(&self.user.sign(nonce)?))
    }

    /// Its user logs in.
    pub fn login(&self) -> Result<ConnectOptions> {
        let user = Arc::clone(&self.user);
        Ok(ConnectOptions::with_jwt(self.user_token()?, move |nonce| {
            let user = Arc::clone(&user);
            async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
        }))
    }
}

impl Operator {
    /// New keys.
    pub fn new() -> Result<Operator> {
        let (key, system) = (KeyPair::new_operator(), Account::new());
        let nats = json!({"system_account": system.name()});
        let token = mint(&key, &key.public_key(), "operator", nats, now_seconds())?;
        let system_token = account_token(&key, &system, json!({}), now_seconds())?;
        Ok(Operator { key, system, token, system_token })
    }

    /// Lines of a configuration that trusts this operator and keeps tokens as `resolver` says.
    pub fn lines(&self, resolver: &str) -> String {
        format!(
            "operator: {}\nresolver: {resolver}\nresolver_preload: {{ {}: {} }}\n",
            self.token,
            self.system.name(),
            self.system_token
        )
    }

    /// The token of an account, without bounds, with more claims and the second since 1970 at which it was issued.
    pub fn account_token(&self, account: &Account, nats: Value, issued_at: i64) -> Result<String> {
        account_token(&self.key, account, nats, issued_at)
    }

    /// The request to delete accounts.
    pub fn deletion(&self, accounts: &[&Account]) -> Result<String> {
        let names: Vec<String> = accounts.iter().map(|account| account.name()).collect();
        mint(&self.key, &self.key.public_key(), "generic", json!({"accounts": names}), now_seconds())
    }
}

/// Seconds since 1970.
pub fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn account_token(operator: &KeyPair, account: &Account, mut nats: Value, issued_at: i64) -> Result<String> {
    nats["limits"] = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1
    });
    mint(operator, &account.name(), "account", nats, issued_at)
}

fn mint(signer: &KeyPair, subject: &str, kind: &str, mut nats: Value, issued_at: i64) -> Result<String> {
    nats["type"] = kind.into();
    nats["version"] = 2.into();
    let claims = json!({
        "iss": signer.public_key(), "sub": subject, "iat": issued_at, "name": kind,
        "jti": fastrand::u64(..).to_string(), "nats": nats,
    });
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&claims));
    let signature = signer.sign(signed.as_bytes()).context("a key that cannot sign")?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}
