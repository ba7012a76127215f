//! Closes connections beyond a limit that came down, or that the rest of the cluster used up.
//!
//! Owns the choice of who goes: the newest, so that those who were served longest stay.

use crate::shared::Shared;
use crate::worker_thread::CloseOne;
use broker::mailbox::Command;
use broker::{CloseReason, Link, LinkKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Closes the clients that the limits of now do not allow: of the server, then of each account.
pub fn close(shared: &Shared) {
    let max = shared.settings().limits.max_connections as usize;
    close_newest(
        clients(shared, |_| true),
        max,
        "maximum connections exceeded",
        CloseReason::MaxConnectionsExceeded,
    );
    let table = shared.table.read().clone();
    for account in table.accounts().iter().filter(|account| account.limits.connections_max.is_some()) {
        close_of_account(shared, &account.name);
    }
}

/// Closes the newest clients of an account that has more connections in the cluster than it may have.
pub fn close_of_account(shared: &Shared, name: &str) {
    let table = shared.table.read().clone();
    let rules = table.find(name).and_then(|id| table.account(id));
    let Some(max) = rules.and_then(|rules| rules.limits.connections_max) else { return };
    let Some(account) = shared.broker.find_account(name) else { return };
    if account.connections_everywhere() <= max {
        return;
    }
    let remote = account.remote_connections.load(Relaxed);
    let here = clients(shared, |link| link.about.lock().account == name);
    let text = "maximum account active connections exceeded";
    let reason = CloseReason::MaxAccountConnectionsExceeded;
    close_newest(here, max.saturating_sub(remote) as usize, text, reason);
}

fn clients(shared: &Shared, is_meant: impl Fn(&Link) -> bool) -> Vec<Arc<Link>> {
    let links = shared.broker.links().into_iter();
    links.filter(|link| link.kind == LinkKind::Client && is_meant(link)).collect()
}

fn close_newest(mut links: Vec<Arc<Link>>, max: usize, text: &'static str, reason: CloseReason) {
    if links.len() <= max {
        return;
    }
    links.sort_by_key(|link| link.id);
    for link in links.drain(max..) {
        // by its worker: last words of another thread are lost when the worker is just writing
        let owner = link.owner.clone();
        owner.post(Command::Other(Box::new(CloseOne(link, text, reason))));
    }
}
