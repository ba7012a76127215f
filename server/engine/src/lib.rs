//! The assembly: pure rooms put together into a [`Worker`] that a driver feeds with bytes, commands and time.
//!
//! Owns the connections of one thread: their sessions, their unfinished input and the worker's router. Never
//! opens a socket, reads a clock or starts a thread; `node` drives it with real ones, `sim` with a seed.

mod hub;
mod input;
pub mod internal;
mod route;
mod worker;

pub use hub::{Hub, Outside};
pub use internal::{Internal, InternalClient, InternalWorker, Outcome, Received};
pub use route::RouteOpening;
pub use worker::{Accepted, Progress, Recheck, Settings, Worker};
