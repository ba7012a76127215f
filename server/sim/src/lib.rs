//! Deterministic simulation: the real `engine` under a seeded scheduler, with connections in memory.
//!
//! Owns the stand-ins for what `node` owns (connections, time, threads), random clients, and the naive model
//! that says what they must and must not receive. Everything follows from one seed, so that a failure is
//! repeated by its number. Never shipped, and never contains a rule of the broker: a rule found only here would
//! be a rule that is not tested.

pub mod cluster_world;
pub mod driver;
pub mod model;
pub mod peer;
pub mod pipe;
pub mod world;

pub use world::{Report, Shape, run};
