//! OCSP (RFC 6960), without a socket: requests, responses, and what follows from them.
//!
//! Owns the facts of a certificate that OCSP needs, the request for a status, reading and verifying the response, when
//! a server staples and when it looks again, the verdict about a peer's certificate, and the cache of responses.
//! Never asks a responder, reads a file or a clock: bytes and time are arguments. Times are milliseconds since 1970.

mod cache;
mod certificate;
mod chain;
mod der;
mod peer;
mod request;
mod response;
mod staple;
#[cfg(test)]
mod tests;

pub use cache::{Cache, Statistics};
pub use certificate::Certificate;
pub use chain::{Authorities, Link, Role};
pub use peer::{Cached, PeerOptions, Verdict, is_current, judge_answer, judge_cached, judge_response};
pub use request::{request, url_of_request};
pub use response::{Response, Status};
pub use staple::{Mode, Plan, check_validity, issuer, next_look, plan};

/// Why a certificate or a response cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The bytes are no DER of the right shape.
    #[error("{0} cannot be read")]
    Malformed(&'static str),
    /// The responder answers with an error (RFC 6960, 4.2.1).
    #[error("the responder answers {0}")]
    Responder(&'static str),
    /// No status of this certificate is in the response.
    #[error("the response is about another certificate")]
    OtherCertificate,
    /// Nobody who may has signed it.
    #[error("the signature of {0} is wrong")]
    Signature(&'static str),
    /// The algorithm of a signature is too weak or unknown.
    #[error("the signature algorithm of {0} is not supported")]
    Algorithm(&'static str),
    /// Signed by a certificate that its authority did not allow to (RFC 6960, 4.2.2.2).
    #[error("the signer of the response is not authorized by the authority to sign responses")]
    NotDelegated,
    /// Valid no more, or not yet.
    #[error("the response is {0}")]
    NotCurrent(String),
    /// The certificate's authority is neither beside it nor in `ca_file`.
    #[error("no issuers found")]
    NoIssuer,
    /// The certificate behind the server's own is none of an authority, or did not sign it.
    #[error("invalid issuer configuration: {0}")]
    BadIssuer(&'static str),
    /// No authority vouches for the peer.
    #[error("no chain to an authority: {0}")]
    NoChain(String),
    /// The file of cached responses.
    #[error("the cached responses cannot be read: {0}")]
    Cache(String),
}
