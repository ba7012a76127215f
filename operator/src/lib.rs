//! Starling's operator: brings a `NatsCluster` into being and keeps it.
//!
//! The path of a `NatsCluster`: [`crd`] → [`validate`] → [`build`] → [`rollout`] → [`status`]. All five are
//! pure. Two drivers carry out what they decide: `controller` on Kubernetes (reads in `observe`, writes in
//! `apply`) and `local` with processes in place of pods.

pub mod apply;
pub mod build;
pub mod certificates;
pub mod controller;
pub mod crd;
pub mod local;
pub mod metrics;
pub mod observe;
pub mod process;
pub mod reason;
pub mod reload;
pub mod rollout;
pub mod status;
pub mod tenancy;
pub mod tenants;
pub mod validate;
