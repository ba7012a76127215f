//! Asking a callout service who a client is (ADR-26).
//!
//! Owns the request: its token, its encryption, its time. What of the answer is believed is the `accounts` room's.

use crate::shared::Shared;
use crate::worker_thread::now_nanos;
use accounts::callout::{Answered, Callout, SUBJECT};
use accounts::{AuthError, Identity, Reason};
use client::Question;
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use engine::{InternalClient, Outcome};
use monitor::Source;
use nkeys::{KeyPair, XKey};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::Duration;

/// Who a request's token is for.
const AUDIENCE: &str = "nats-authorization-request";
/// A token begins like this, and nothing encrypted does.
const TOKEN_START: &[u8] = b"eyJ";
/// Requests under way; a client beyond that is refused at once.
const REQUESTS_MAX: usize = 4096;

/// What this server asks with.
pub struct Asker {
    /// Signs requests; its public part is the server's id.
    key: KeyPair,
    /// Encrypts them.
    curve: XKey,
    clients: Mutex<HashMap<String, InternalClient>>,
    under_way: Mutex<usize>,
}

impl Asker {
    /// Keys of this run.
    pub fn new() -> Asker {
        let (key, curve) = (KeyPair::new_server(), XKey::new());
        Asker { key, curve, clients: Mutex::default(), under_way: Mutex::default() }
    }

    /// The server's id: a public server key.
    pub fn server_id(&self) -> String {
        self.key.public_key()
    }

    /// Public curve key, for INFO.
    pub fn xkey(&self) -> String {
        self.curve.public_key()
    }
}

impl Default for Asker {
    fn default() -> Self {
        Asker::new()
    }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, AuthError> {
    Err(Reason::Callout(reason.into()).into())
}

/// Asks the service, and says what comes of its answer. May be asked again with the same answer when
/// [`AuthError::AccountNeeded`] was seen to: `answer` keeps it.
pub async fn ask(
    shared: &Shared,
    question: &Question,
    callout: &Callout,
    answer: &mut Option<Reply>,
) -> Result<Identity, AuthError> {
    if answer.is_none() {
        let asker = &shared.asker;
        {
            let mut under_way = asker.under_way.lock();
            if *under_way >= REQUESTS_MAX {
                return refuse("too many requests to the auth callout service are under way");
            }
            *under_way += 1;
        }
        let reply = request(shared, question, callout).await;
        *asker.under_way.lock() -= 1;
        *answer = Some(reply?);
    }
    let Some(reply) = answer else { return refuse("no answer") };
    question.verdict_on(&Answered {
        callout,
        user_key: &reply.user_key,
        server_id: &shared.server_id,
        token: &reply.token,
        was_encrypted: reply.was_encrypted,
    })
}

/// A service's answer.
pub struct Reply {
    user_key: String,
    token: String,
    was_encrypted: bool,
}

async fn request(shared: &Shared, question: &Question, callout: &Callout) -> Result<Reply, AuthError> {
    let asker = &shared.asker;
    let user_key = KeyPair::new_user().public_key();
    let timeout = shared.settings().auth_timeout();
    let token = request_token(shared, question, callout, &user_key, timeout)?;
    let service = match callout.xkey.as_str() {
        "" => None,
        xkey => Some(XKey::from_public_key(xkey).or_else(|error| refuse(format!("xkey {xkey:?}: {error}")))?),
    };
    let (headers, payload) = match &service {
        None => (Vec::new(), token.into_bytes()),
        Some(service) => {
            let sealed = asker.curve.seal(token.as_bytes(), service);
            let sealed =
                sealed.or_else(|error| refuse(format!("Error encrypting auth request claim: {error}")))?;
            (format!("NATS/1.0\r\nNats-Server-Xkey: {}\r\n\r\n", asker.xkey()).into_bytes(), sealed)
        }
    };
    let client = {
        let mut clients = asker.clients.lock();
        let name = callout.account.to_string();
        clients.entry(name).or_insert_with(|| shared.internal.client(&callout.account)).clone()
    };
    let (sender, answered) = tokio::sync::oneshot::channel();
    let until = now_nanos() + timeout.as_nanos() as u64;
    client.request(SUBJECT, &headers, &payload, until, move |outcome| {
        let answer = match outcome {
            Outcome::Answered(received) => Ok(received.payload.to_vec()),
            Outcome::NoResponders => Err("nobody listens for auth callout requests"),
            Outcome::TimedOut => Err("Authorization callout response not received in time"),
        };
        // whoever asked is there until it is answered
        let _ = sender.send(answer);
    });
    let name = &callout.account;
    let bytes = match answered.await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(reason)) => return refuse(format!("{reason} on account {name:?}")),
        Err(_) => return refuse("the server stops"),
    };
    if bytes.is_empty() {
        return refuse(format!("auth callout violation: \"no reason supplied\" on account {name:?}"));
    }
    let encrypted = service.filter(|_| !bytes.starts_with(TOKEN_START));
    let was_encrypted = encrypted.is_some();
    let bytes = match encrypted {
        None => bytes,
        Some(service) => asker.curve.open(&bytes, &service).or_else(|error| {
            refuse(format!("error decrypting auth callout response on account {name:?}: {error}"))
        })?,
    };
    let token = String::from_utf8(bytes).or_else(|_| refuse("auth callout response is no token"))?;
    Ok(Reply { user_key, token, was_encrypted })
}

/// The token that says who asks about whom. It holds what the client sent, its password too: that is its purpose.
fn request_token(
    shared: &Shared,
    question: &Question,
    callout: &Callout,
    user_key: &str,
    timeout: Duration,
) -> Result<String, AuthError> {
    let identity = shared.identity();
    let connect = &question.connect;
    let now_seconds = now_nanos() / 1_000_000_000;
    let about = question.link.about.lock();
    let sent_jwt = if connect.jwt.is_empty() { &callout.jwt } else { &connect.jwt };
    let user = [&connect.nkey, &connect.user].into_iter().find(|text| !text.is_empty());
    let hidden = if connect.auth_token.is_empty() { "" } else { "[REDACTED]" };
    let xkey = if callout.xkey.is_empty() { String::new() } else { shared.asker.xkey() };
    let nonce = if connect.sig.is_empty() { "" } else { &question.nonce };
    let mut nats = json!({
        "server_id": filled(&[
            ("name", &identity.name), ("host", &identity.host), ("id", &identity.id), ("version", &identity.version),
            ("cluster", &identity.cluster), ("xkey", &xkey),
        ]),
        "user_nkey": user_key,
        "client_info": filled(&[
            ("host", &about.ip), ("user", user.map_or(hidden, |user| user)), ("name", &connect.name),
            ("kind", "Client"), ("type", "nats"), ("nonce", nonce),
        ]),
        "connect_opts": filled(&[
            ("jwt", sent_jwt), ("nkey", &connect.nkey), ("sig", &connect.sig), ("auth_token", &connect.auth_token),
            ("user", &connect.user), ("pass", &connect.pass), ("name", &connect.name), ("lang", &connect.lang),
            ("version", &connect.version),
        ]),
        "type": "authorization_request",
        "version": 2,
    });
    nats["client_info"]["id"] = question.link.id.into();
    nats["connect_opts"]["protocol"] = connect.protocol.into();
    if !identity.tags.is_empty() {
        nats["server_id"]["tags"] = json!(identity.tags);
    }
    if let Some(certificate) = &question.certificate {
        let (version, cipher) = &about.tls;
        nats["client_tls"] = filled(&[("version", version), ("cipher", cipher)]);
        nats["client_tls"]["verified_chains"] = json!([[pem(certificate)]]);
    }
    drop(about);
    let mut claims = json!({
        "aud": AUDIENCE, "exp": now_seconds + timeout.as_secs().max(1), "iat": now_seconds,
        "iss": identity.id, "sub": callout.subject, "nats": nats,
    });
    claims["jti"] = BASE32_NOPAD.encode(&Sha256::digest(claims.to_string().as_bytes())).into();
    let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&claims));
    let signature = shared.asker.key.sign(signed.as_bytes());
    let signature =
        signature.or_else(|error| refuse(format!("Error encoding auth request claim: {error}")))?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

/// An object of the fields that are not empty.
fn filled(fields: &[(&str, &str)]) -> Value {
    let fields = fields.iter().filter(|(_, text)| !text.is_empty());
    Value::Object(fields.map(|(name, text)| ((*name).to_owned(), Value::from(*text))).collect::<Map<_, _>>())
}

fn pem(certificate: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(&CertificateDer::from(certificate));
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
