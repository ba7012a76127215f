//! Who this server is: its id for this run and the versions that it states.

/// The nats-server version that clients and tools may count on: suites and clients choose features by it.
pub const COMPATIBLE_VERSION: &str = "2.15.2";
/// Our own version.
pub const STARLING_VERSION: &str = env!("CARGO_PKG_VERSION");
/// JetStream API level that INFO states, as nats-server 2.15 does with JetStream off.
pub const API_LEVEL: i32 = 5;

/// A fresh challenge for clients that sign: the end of a public key that nobody keeps, with 100 random bits or
/// more. nats-server's is shorter; clients sign whatever they are given.
pub fn nonce() -> String {
    let key = nkeys::KeyPair::new_user().public_key();
    key[key.len() - 24..].to_owned()
}
