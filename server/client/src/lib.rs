//! The conversation with a NATS client: what each operation does and what the server answers.
//!
//! Owns a client's protocol state: what it asked for in CONNECT, its subscriptions by sid, its outstanding
//! PINGs. Never touches a socket or a clock, and never decides who receives a message (`broker`).
//!
//! Error texts and which of them end the connection are nats-server's (`client.go`, `errors.go`); clients match
//! on them.

mod login;
mod policy;
mod session;

pub use login::{Answer, Question};
pub use policy::Policy;
pub use session::{Client, Context, Failure, Leaving};
