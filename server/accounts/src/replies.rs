//! The reply subjects a connection may answer to because of `allow_responses`.
//!
//! Owns one connection's record of them, bounded in number and time. Never consulted for subjects that the
//! user's lists allow anyway.

use crate::Responses;
use std::collections::HashMap;

/// Records are pruned once this many were added since the last time, or this much time went by.
const ADDED_MAX: usize = 4096;
const PRUNE_NANOS: u64 = 1_000_000_000;

/// Reply subjects seen by one connection. Times are nanoseconds of any clock that does not run backwards.
#[derive(Debug)]
pub struct Replies {
    responses: Responses,
    seen: HashMap<Box<[u8]>, Seen>,
    added: usize,
    pruned_nanos: u64,
}

#[derive(Debug)]
struct Seen {
    at_nanos: u64,
    used: u64,
}

impl Replies {
    /// No replies yet.
    pub fn new(responses: Responses) -> Replies {
        Replies { responses, seen: HashMap::new(), added: 0, pruned_nanos: 0 }
    }

    /// Notes that a message with this reply subject was delivered to the connection. Call it only where
    /// [`crate::Permissions::can_publish`] says no to the reply subject.
    pub fn handle_delivered(&mut self, reply: &[u8], now_nanos: u64) {
        self.seen.insert(reply.into(), Seen { at_nanos: now_nanos, used: 0 });
        self.added += 1;
        if self.added > ADDED_MAX || now_nanos.saturating_sub(self.pruned_nanos) > PRUNE_NANOS {
            let responses = self.responses;
            self.seen.retain(|_, seen| {
                responses.messages_max.is_none_or(|max| seen.used < max) && !seen.is_old(responses, now_nanos)
            });
            self.added = 0;
            self.pruned_nanos = now_nanos;
        }
    }

    /// Whether the connection may publish to `subject` now, using up one of its responses.
    pub fn take(&mut self, subject: &[u8], now_nanos: u64) -> bool {
        let Some(seen) = self.seen.get_mut(subject) else { return false };
        seen.used += 1;
        let allowed = self.responses.messages_max.is_none_or(|max| seen.used <= max)
            && !seen.is_old(self.responses, now_nanos);
        if !allowed {
            self.seen.remove(subject);
        }
        allowed
    }

    /// How many reply subjects are remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

impl Seen {
    fn is_old(&self, responses: Responses, now_nanos: u64) -> bool {
        responses.expires_nanos.is_some_and(|bound| now_nanos.saturating_sub(self.at_nanos) > bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_good_for_so_many_messages_and_so_long() {
        let mut replies = Replies::new(Responses { messages_max: Some(2), expires_nanos: Some(100) });
        replies.handle_delivered(b"r", 10);
        assert!(replies.take(b"r", 20));
        assert!(!replies.take(b"other", 20));
        assert!(replies.take(b"r", 110));
        assert!(!replies.take(b"r", 110));
        replies.handle_delivered(b"r", 200);
        assert!(!replies.take(b"r", 301));
        assert!(replies.is_empty());
    }

    #[test]
    fn memory_is_bounded_by_pruning() {
        let mut replies = Replies::new(Responses { messages_max: Some(1), expires_nanos: Some(10) });
        for i in 0..100_000u64 {
            replies.handle_delivered(i.to_string().as_bytes(), i);
        }
        assert!(replies.len() < 5_000);
    }
}
