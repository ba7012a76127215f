//! The parts of the end-to-end tool that need neither a cluster nor a server: image
//! archives, protocol scripts, the table of steps. What talks to processes and networks
//! is in the binary.

pub mod checker;
pub mod curve;
pub mod image;
pub mod ledger;
pub mod plot;
pub mod script;
pub mod steps;
