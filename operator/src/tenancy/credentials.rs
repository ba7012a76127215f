//! Credentials of one user: made, replaced with an overlap, told to servers.
//!
//! Owns the order of a rotation, by which a client is never without credentials that every server takes:
//! servers learn the new ones first, then the Secret offers them, and only after the overlap servers forget
//! the former. Keeps nothing: the Secret's content is the state.

use std::collections::BTreeMap;
use std::time::Duration;

use config::auth::Credential as Login;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};

use crate::crd::CredentialType;

/// Key of the Secret: user name, for passwords.
pub const USER: &str = "user";
/// Key of the Secret: password.
pub const PASSWORD: &str = "password";
/// Key of the Secret: seed of an nkey.
pub const NKEY: &str = "nkey";
/// Key of the Secret: where to connect.
pub const URL: &str = "url";
/// Key of the Secret: certificates to trust.
pub const CA: &str = "ca.crt";
/// Key of the Secret: what the operator must remember.
pub const STATE: &str = "operator-state.json";

/// Cost of the hash in the servers' configuration. The least: a password of 128 random bits is not found by
/// trying, and every login of a client costs the server one hash.
const HASH_COST: u32 = 4;

/// Something to log in with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// User name, or public key.
    pub user: String,
    /// Password, or seed.
    pub secret: String,
    /// What the servers' configuration holds: a hash, or the public key.
    pub verifier: String,
    /// Password or key.
    pub kind: Kind,
    /// When it was made, in seconds since 1970.
    pub since: i64,
}

/// Password or key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
    Password,
    NKey,
}

impl From<CredentialType> for Kind {
    fn from(kind: CredentialType) -> Self {
        match kind {
            CredentialType::Password => Self::Password,
            CredentialType::NKey => Self::NKey,
        }
    }
}

/// Credentials that are let in for a while although the Secret does not hold them any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// User name, or public key.
    pub user: String,
    /// What the servers' configuration holds.
    pub verifier: String,
    /// Password or key.
    pub kind: Kind,
    /// Until when, in seconds since 1970.
    pub until: i64,
}

/// All credentials of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Counts credentials of the user, from 1.
    pub serial: u32,
    /// What the Secret offers.
    pub current: Credential,
    /// What it will offer as soon as every server takes it.
    pub next: Option<Credential>,
    /// What it offered before.
    pub former: Option<Former>,
    /// The last request for a rotation that was carried out.
    #[serde(default)]
    pub request: Option<String>,
}

/// What the spec and annotations ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the `NatsUser`.
    pub name: String,
    /// Kind of credentials.
    pub kind: Kind,
    /// Age at which they are replaced.
    pub rotate_after: Option<Duration>,
    /// How long the former ones are let in.
    pub overlap: Duration,
    /// Value of the annotation that asks for a rotation.
    pub request: Option<String>,
}

impl Credentials {
    /// The first credentials of a user.
    pub fn first(wanted: &Wanted, now: i64, random: [u8; 32]) -> Self {
        Self {
            serial: 1,
            current: make(wanted, 1, now, random),
            next: None,
            former: None,
            request: wanted.request.clone(),
        }
    }

    /// What follows at `now`. `is_live` says whether every running server takes the user of that name.
    /// Takes as many steps as are due.
    pub fn advance(
        mut self,
        wanted: &Wanted,
        now: i64,
        is_live: impl Fn(&str) -> bool,
        random: [u8; 32],
    ) -> Self {
        if self.next.as_ref().is_some_and(|next| is_live(&next.user))
            && let Some(next) = self.next.take()
        {
            let before = std::mem::replace(&mut self.current, next);
            self.former = Some(Former {
                user: before.user,
                verifier: before.verifier,
                kind: before.kind,
                until: now.saturating_add(seconds(wanted.overlap)),
            });
        }
        if self.former.as_ref().is_some_and(|former| former.until <= now) {
            self.former = None;
        }
        if self.next.is_none() && self.former.is_none() && self.is_due(wanted, now) {
            self.serial = self.serial.saturating_add(1);
            self.next = Some(make(wanted, self.serial, now, random));
            self.request.clone_from(&wanted.request);
        }
        self
    }

    fn is_due(&self, wanted: &Wanted, now: i64) -> bool {
        self.rotates_at(wanted).is_some_and(|at| at <= now)
            || self.current.kind != wanted.kind
            || (wanted.request.is_some() && wanted.request != self.request)
    }

    /// When the current credentials get too old.
    pub fn rotates_at(&self, wanted: &Wanted) -> Option<i64> {
        wanted.rotate_after.map(|age| self.current.since.saturating_add(seconds(age)))
    }

    /// When to look again, if nothing else happens.
    pub fn wake_at(&self, wanted: &Wanted) -> Option<i64> {
        let former = self.former.as_ref().map(|former| former.until);
        // A rotation that is under way is waited for by looking at servers.
        let rotation = if self.next.is_none() { self.rotates_at(wanted) } else { None };
        // The next rotation waits for the end of the overlap.
        former.or(rotation)
    }

    /// What servers are to take, the newest last.
    pub fn logins(&self) -> Vec<Login> {
        let former = self.former.iter().map(|former| login(former.kind, &former.user, &former.verifier));
        let held = std::iter::once(&self.current).chain(&self.next);
        former.chain(held.map(|held| login(held.kind, &held.user, &held.verifier))).collect()
    }

    /// The content of the Secret.
    pub fn data(&self, url: &str, ca: Option<&str>) -> BTreeMap<String, String> {
        let mut data = BTreeMap::from([
            (URL.to_owned(), url.to_owned()),
            // Cannot fail: strings and numbers only.
            (STATE.to_owned(), serde_json::to_string(self).unwrap_or_default()),
        ]);
        match self.current.kind {
            Kind::Password => {
                data.insert(USER.to_owned(), self.current.user.clone());
                data.insert(PASSWORD.to_owned(), self.current.secret.clone());
            }
            Kind::NKey => {
                data.insert(NKEY.to_owned(), self.current.secret.clone());
            }
        }
        if let Some(ca) = ca {
            data.insert(CA.to_owned(), ca.to_owned());
        }
        data
    }

    /// Reads [`STATE`] back; `None` if somebody made it unreadable, and new credentials are to be made.
    pub fn read(state: &str) -> Option<Self> {
        serde_json::from_str(state).ok()
    }
}

fn login(kind: Kind, user: &str, verifier: &str) -> Login {
    match kind {
        Kind::Password => Login::Password { username: user.to_owned(), password: verifier.to_owned() },
        Kind::NKey => Login::Nkey(verifier.to_owned()),
    }
}

fn make(wanted: &Wanted, serial: u32, now: i64, random: [u8; 32]) -> Credential {
    let key = || KeyPair::new_from_raw(KeyPairType::User, random).ok();
    let pair =
        if wanted.kind == Kind::NKey { key().and_then(|key| Some((key.seed().ok()?, key))) } else { None };
    if let Some((seed, key)) = pair {
        let public = key.public_key();
        return Credential {
            user: public.clone(),
            secret: seed,
            verifier: public,
            kind: Kind::NKey,
            since: now,
        };
    }
    let (password, salt) = random.split_at(16);
    let password: String = password.iter().map(|byte| format!("{byte:02x}")).collect();
    let salt: [u8; 16] = salt.try_into().unwrap_or_default();
    // Neither cost nor length is out of bcrypt's range.
    let verifier = bcrypt::hash_with_salt(&password, HASH_COST, salt)
        .map(|parts| parts.format_for_version(bcrypt::Version::TwoA))
        .unwrap_or_default();
    // No Kubernetes name has an underscore, so that no two users' names can meet.
    let user = format!("{}_{serial}", wanted.name);
    Credential { user, secret: password, verifier, kind: Kind::Password, since: now }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(kind: Kind) -> Wanted {
        Wanted {
            name: "checkout".to_owned(),
            kind,
            rotate_after: Some(Duration::from_secs(1000)),
            overlap: Duration::from_secs(100),
            request: None,
        }
    }

    fn users(credentials: &Credentials) -> Vec<String> {
        let name = |login: Login| match login {
            Login::Password { username, .. } => username,
            Login::Nkey(key) => key,
        };
        credentials.logins().into_iter().map(name).collect()
    }

    #[test]
    fn a_rotation_offers_what_servers_know_and_forgets_late() {
        let wanted = wanted(Kind::Password);
        let step = |credentials: Credentials, now, live: bool| {
            credentials.advance(&wanted, now, |_| live, [u8::try_from(now % 251).expect("small"); 32])
        };
        let first = Credentials::first(&wanted, 0, [7; 32]);
        assert_eq!(step(first.clone(), 999, true), first, "not yet due");

        let told = step(first.clone(), 1000, false);
        assert_eq!(users(&told), ["checkout_1", "checkout_2"]);
        assert_eq!(told.data("u", None)[USER], "checkout_1", "servers do not know the new one yet");
        assert_eq!(step(told.clone(), 5000, false), told, "however long they take");

        let switched = step(told, 1010, true);
        assert_eq!(switched.data("u", None)[USER], "checkout_2");
        assert_eq!(users(&switched), ["checkout_1", "checkout_2"], "the former is still let in");
        assert_eq!(switched.wake_at(&wanted), Some(1110));
        assert_eq!(step(switched.clone(), 1109, true), switched);

        let done = step(switched, 1110, true);
        assert_eq!(users(&done), ["checkout_2"]);
        assert_eq!(done.wake_at(&wanted), Some(2000));
    }

    #[test]
    fn servers_hold_no_secret_and_take_the_one_in_the_secret() {
        let password = Credentials::first(&wanted(Kind::Password), 0, [9; 32]);
        let data = password.data("nats://a:4222", Some("pem"));
        let Some(Login::Password { password: hash, .. }) = password.logins().pop() else {
            panic!("no password")
        };
        assert!(hash.starts_with("$2a$04$") && !hash.contains(&data[PASSWORD]));
        assert!(bcrypt::verify(&data[PASSWORD], &hash).expect("a hash"));
        assert_eq!((data[URL].as_str(), data[CA].as_str()), ("nats://a:4222", "pem"));

        let key = Credentials::first(&wanted(Kind::NKey), 0, [9; 32]);
        let data = key.data("u", None);
        let pair = KeyPair::from_seed(&data[NKEY]).expect("a seed");
        assert_eq!(key.logins(), [Login::Nkey(pair.public_key())]);
        assert!(!data.contains_key(PASSWORD) && !data.contains_key(CA));
    }

    #[test]
    fn a_new_kind_and_a_request_are_rotations_too() {
        let first = Credentials::first(&wanted(Kind::Password), 0, [1; 32]);
        let other = first.clone().advance(&wanted(Kind::NKey), 1, |_| false, [2; 32]);
        assert_eq!(other.next.as_ref().map(|next| next.kind), Some(Kind::NKey));
        let asked = Wanted { request: Some("now".to_owned()), ..wanted(Kind::Password) };
        let told = first.advance(&asked, 1, |_| false, [2; 32]);
        let done = told.advance(&asked, 2, |_| true, [3; 32]).advance(&asked, 500, |_| true, [4; 32]);
        assert_eq!((done.serial, done.current.user.as_str()), (2, "checkout_2"), "a request counts once");
    }

    #[test]
    fn the_secret_is_the_state() {
        let credentials = Credentials::first(&wanted(Kind::Password), 0, [1; 32]);
        assert_eq!(Credentials::read(&credentials.data("u", None)[STATE]), Some(credentials));
        assert_eq!(Credentials::read("{"), None);
    }
}
