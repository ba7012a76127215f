//! What the configuration says about clients.

use accounts::Table;
use std::sync::Arc;
use wire::client::Limits;
use wire::lines::Lines;

/// Settings that sessions consult; shared by all workers and replaced as a whole on reload.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Longest control line and largest payload.
    pub limits: Limits,
    /// Open subscriptions of one connection, 0 for no limit.
    pub subscriptions_max: usize,
    /// Tokens of one subscription's subject, 0 for no limit.
    pub subject_tokens_max: usize,
    /// Headers are understood.
    pub headers: bool,
    /// Silence after which a PING is sent, in nanoseconds.
    pub ping_interval_nanos: u64,
    /// Unanswered PINGs after which the connection is stale.
    pub pings_out_max: u32,
    /// Time from the first byte of INFO to CONNECT, in nanoseconds; asked for only with authentication.
    pub auth_timeout_nanos: u64,
    /// Who may connect and do what.
    pub table: Arc<Table>,
    /// Name of the system account, empty when there is none.
    pub system_account: String,
    /// Longest time that a write may be stuck, in nanoseconds.
    pub write_deadline_nanos: u64,
    /// Every operation has its line in the log; `None` for none.
    pub lines: Option<Lines>,
}

impl Default for Policy {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Policy {
            limits: Limits::default(),
            subscriptions_max: 0,
            subject_tokens_max: 0,
            headers: true,
            ping_interval_nanos: 120 * SECOND,
            pings_out_max: 2,
            auth_timeout_nanos: 2 * SECOND,
            table: Arc::new(Table::default()),
            system_account: String::new(),
            write_deadline_nanos: 10 * SECOND,
            lines: None,
        }
    }
}
