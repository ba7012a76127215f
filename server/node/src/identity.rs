//! Who this server is: its id for this run and the versions that it states.

/// The nats-server version that clients and tools may count on: suites and clients choose features by it.
pub const COMPATIBLE_VERSION: &str = "2.15.2";
/// Our own version.
pub const STARLING_VERSION: &str = env!("CARGO_PKG_VERSION");
/// JetStream API level that INFO states, as nats-server 2.15 does with JetStream off.
pub const API_LEVEL: i32 = 5;

/// A fresh id of a run: the public part of a server NKey that nobody keeps, as nats-server makes it.
pub fn server_id() -> String {
    nkeys::KeyPair::new_server().public_key()
}

/// A fresh challenge: 11 random bytes in URL-safe base64, as nats-server makes it.
pub fn nonce() -> String {
    use std::hash::{BuildHasher, Hasher};
    // a fresh key pair is the randomness at hand: 56 letters, of which the last 20 hold 100 random bits
    let _ = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let key = nkeys::KeyPair::new_user().public_key();
    key[key.len() - 24..].to_owned()
}
