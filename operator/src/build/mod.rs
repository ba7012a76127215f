//! What a valid cluster consists of: configuration files and Kubernetes objects.
//!
//! Owns the shape of everything that the operator creates. Never talks to anything and never decides
//! when: [`crate::rollout`] does.

pub mod config;
pub mod labels;
