//! OCSP at the edge: responders, the files of responses, the verifiers that TLS calls.
//!
//! Owns what waits for others. What a response means and what follows from it is the `ocsp` room's.

pub mod peers;
pub mod responder;
pub mod staples;
pub mod verifiers;

pub use peers::Peers;
pub use staples::Staple;

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
