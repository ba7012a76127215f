//! The latest connections that ended, as `/connz?state=closed` shows them.
//!
//! Owns how they are kept: ten thousand are, from the midst of what open connections held, and each piece of them in an
//! allocation of its own would keep a page from going back to the system. So numbers and texts are two long runs.

use crate::snapshot::{Numbers, timestamp};
use broker::CloseReason;
use broker::link::About;
use monitor::source::{ClosedConnection, Connection};
use std::collections::VecDeque;
use std::sync::Arc;

/// Texts of a connection: those of [`Departed::push`], in its order.
const TEXTS: usize = 9;

/// Connections that ended, the oldest first.
#[derive(Default)]
pub struct Departed {
    entries: VecDeque<Entry>,
    /// The texts of all entries, one behind the other.
    texts: VecDeque<u8>,
}

struct Entry {
    numbers: Numbers,
    port: u16,
    start_nanos: u64,
    /// When it ended, and why.
    end: (u64, CloseReason),
    identity: Option<Arc<accounts::Identity>>,
    text_bytes: [u32; TEXTS],
}

impl Departed {
    /// Adds a connection, with when it ended and why; forgets the oldest of more than `keep`.
    pub fn push(&mut self, numbers: Numbers, about: About, tag: &str, end: (u64, CloseReason), keep: usize) {
        while self.entries.len() >= keep.max(1) {
            let Some(oldest) = self.entries.pop_front() else { break };
            let bytes: usize = oldest.text_bytes.iter().map(|bytes| *bytes as usize).sum();
            self.texts.drain(..bytes);
        }
        if keep == 0 {
            return;
        }
        let About { ip, name, lang, version, tls, user, account, .. } = &about;
        let texts: [&str; TEXTS] = [ip, name, lang, version, &tls.0, &tls.1, user, account, tag];
        // each was in one line of the protocol or of the configuration: far from 4 GB
        let text_bytes = texts.map(|text| text.len() as u32);
        for text in texts {
            self.texts.extend(text.as_bytes());
        }
        self.entries.push_back(Entry {
            numbers,
            port: about.port,
            start_nanos: about.start_nanos,
            end,
            identity: about.identity,
            text_bytes,
        });
    }

    /// Those of an account, or all.
    pub fn select(&self, account: Option<&str>) -> Vec<ClosedConnection> {
        let mut at = 0;
        let mut selected = Vec::new();
        for entry in &self.entries {
            let texts = entry.text_bytes.map(|bytes| {
                let text = self.texts.range(at..at + bytes as usize).copied().collect();
                at += bytes as usize;
                String::from_utf8(text).unwrap_or_default()
            });
            if account.is_none_or(|account| account == texts[7]) {
                selected.push(entry.connection(texts));
            }
        }
        selected
    }
}

impl Entry {
    fn connection(&self, texts: [String; TEXTS]) -> ClosedConnection {
        let [ip, name, lang, version, tls_version, cipher_suite, user, account, account_tag] = texts;
        let about = About {
            ip,
            port: self.port,
            start_nanos: self.start_nanos,
            name,
            lang,
            version,
            user,
            account,
            tls: (tls_version, cipher_suite),
            identity: self.identity.clone(),
            ..About::default()
        };
        let connection = Connection { account_tag, ..self.numbers.connection(about) };
        ClosedConnection { connection, stop: timestamp(self.end.0), reason: self.end.1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(departed: &mut Departed, cid: u64, account: &str, keep: usize) {
        let name = "n".repeat(cid as usize);
        let about = About { name, account: account.into(), port: 9, ..About::default() };
        let mut numbers = Numbers::default();
        numbers.cid = cid;
        departed.push(numbers, about, "tag", (cid, CloseReason::ClientClosed), keep);
    }

    #[test]
    fn the_latest_are_kept_with_all_that_was_known_of_them() {
        let mut departed = Departed::default();
        for cid in 1..=50 {
            let account = if cid % 2 == 0 { "EVEN" } else { "ODD" };
            push(&mut departed, cid, account, 3);
        }
        let all = departed.select(None);
        let seen: Vec<_> = all.iter().map(|c| (c.connection.cid, c.connection.name.len())).collect();
        assert_eq!(seen, [(48, 48), (49, 49), (50, 50)]);
        let last = &all[2];
        assert_eq!((&*last.connection.account, &*last.connection.account_tag), ("EVEN", "tag"));
        assert_eq!((last.connection.port, last.reason), (9, CloseReason::ClientClosed));
        let odd = departed.select(Some("ODD"));
        assert_eq!(odd.iter().map(|c| c.connection.cid).collect::<Vec<_>>(), [49]);
        // fewer from now on, then none
        push(&mut departed, 51, "A", 1);
        assert_eq!(departed.select(None).len(), 1);
        push(&mut departed, 52, "A", 0);
        assert!(departed.select(None).is_empty());
        assert!(departed.texts.is_empty());
    }
}
