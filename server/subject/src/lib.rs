//!
//! Owns: what a valid subject is, which filters match which subjects, the memory layout of a
//! million filters, and rewriting a subject by a mapping rule.
//! Never: who subscribed, to which account a filter belongs, or any I/O, clock or random source
//!
//! Subjects are bytes. NATS asks for UTF-8 but its brokers neither check nor need it; tokens are
//! separated by `.`; `*` as a whole token stands for one token, `>` as the last token for one or
//! more. Rules are those of nats-server's `sublist.go`.
#![no_std]

extern crate alloc;

mod arena;
mod grammar;
mod hashing;
pub mod transform;
mod trie;

pub use grammar::{
    Tokens, collide, is_literal, is_subset, is_valid, is_valid_publish, is_valid_text, matches, tokens,
};
pub use hashing::{hash, same};
pub use transform::{Transform, TransformError};
pub use trie::{FilterId, Memory, Trie};
