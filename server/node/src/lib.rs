//! starling-server: sockets, TLS, files, threads, signals, HTTP and logging around the pure rooms.

pub mod socket;
pub mod worker_thread;
