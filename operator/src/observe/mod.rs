//! Everything that is read: the API server and the brokers.
//!
//! Owns all reading of the operator. Never writes and never judges: it fills
//! [`crate::rollout::Observed`].

pub mod broker;
pub mod kubernetes;
