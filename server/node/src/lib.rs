//! starling-server: sockets, TLS, files, threads, signals, HTTP and logging around the pure rooms.
//!
//! Also the broker as a library: [`Server::start`] runs one inside another program.

pub mod access;
mod callout;
mod certificates;
mod compression;
mod control;
mod departed;
mod files;
pub mod http;
pub mod identity;
mod internal_thread;
mod listener;
pub mod logging;
mod memory;
mod ocsp;
mod process;
mod proxy;
mod resolver;
mod routes;
mod server;
mod shared;
mod sharing;
mod snapshot;
mod socket;
mod surplus;
mod system;
pub mod tls;
mod verification;
mod worker_thread;

pub use server::{Reloader, Server, StartError};
