//! Operator mode: JSON web tokens of operators, accounts, users and activations, in the public formats of
//! nats-io/jwt, versions 1 and 2.
//!
//! Owns decoding, signatures, what makes claims invalid, scoped users and their templates. Never fetches
//! a token: resolvers hand them in.

pub(crate) mod check;
pub(crate) mod claims;
pub(crate) mod template;
pub(crate) mod token;
pub(crate) mod user;

pub use claims::{AccountClaims, ActivationClaims, Claims, OperatorClaims, UserClaims};
pub use token::{TokenError, account, activation, generic, operator, payload, user};
