//! How many subscriptions a subject reaches, here and in the whole cluster.

use super::user::Asking;
use super::{System, later};
use crate::shared::Shared;
use data_encoding::BASE64;
use engine::Received;
use monitor::request::SubscriptionCountRequest;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long the other servers' answers are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// A question under way.
struct Count {
    sum: u64,
    missing: usize,
    reply: String,
    /// The subscription for the answers.
    sid: u64,
}

impl System {
    /// Another server asks for the subscriptions of clients here.
    pub(super) fn answer_subscription_count(&self, shared: &Shared, received: &Received<'_>) {
        let Ok(request) = serde_json::from_slice::<SubscriptionCountRequest>(received.payload) else {
            return;
        };
        let here = shared.broker.find_account(&request.acc);
        // who has no connection of the account leaves the answer to others
        if here.is_none_or(|here| here.connections.load(Relaxed) == 0) {
            return;
        }
        let Ok(queue) = BASE64.decode(request.queue.as_bytes()) else { return };
        let queue = (!request.queue.is_empty()).then_some(&queue[..]);
        let count = Self::count_subscriptions(shared, &request.acc, &request.subject, queue);
        received.answer(count.to_string().as_bytes());
    }

    /// `$SYS.DEBUG.SUBSCRIBERS`: asks the other servers and answers with the sum.
    pub(super) fn answer_subscribers(self: &Arc<Self>, shared: &Shared, received: &Received<'_>) {
        let Ok(text) = std::str::from_utf8(received.payload) else { return };
        let mut words = text.split_ascii_whitespace();
        let subject = words.next().unwrap_or_default();
        let queue = words.next();
        let account = match Asking::of(received) {
            Some(asking) if !asking.svc.is_empty() => asking.svc,
            Some(asking) if !asking.acc.is_empty() => asking.acc,
            _ => self.account().to_owned(),
        };
        let here = Self::count_subscriptions(shared, &account, subject, queue.map(str::as_bytes));
        let missing = shared.remotes();
        if missing == 0 || subject.is_empty() {
            return received.answer(here.to_string().as_bytes());
        }
        let inbox = format!("$SYS._INBOX.{}.{}", self.server_id, self.next_sequence());
        let count = Count { sum: here, missing, reply: received.reply.to_owned(), sid: 0 };
        let count = Arc::new(Mutex::new(Some(count)));
        let (system, answers) = (self.clone(), count.clone());
        let handler = Arc::new(move |answer: &Received<'_>| {
            let number = std::str::from_utf8(answer.payload).ok().and_then(|text| text.parse::<u64>().ok());
            let mut under_way = answers.lock();
            let Some(count) = &mut *under_way else { return };
            count.sum += number.unwrap_or(0);
            count.missing = count.missing.saturating_sub(1);
            if count.missing == 0 {
                let count = under_way.take();
                drop(under_way);
                system.end_count(count);
            }
        });
        let sid = self.client.subscribe(&inbox, None, handler);
        if let Some(count) = &mut *count.lock() {
            count.sid = sid;
        }
        let request = SubscriptionCountRequest {
            acc: account,
            subject: subject.into(),
            queue: queue.map(|queue| BASE64.encode(queue.as_bytes())).unwrap_or_default(),
        };
        if let Ok(payload) = serde_json::to_vec(&request) {
            self.client.publish("$SYS.REQ.ACCOUNT.NSUBS", &inbox, &[], &payload);
        }
        let system = self.clone();
        self.client.internal().at(later(PATIENCE), move |_| {
            let late = count.lock().take();
            system.end_count(late);
        });
    }

    fn end_count(&self, count: Option<Count>) {
        if let Some(count) = count {
            self.client.unsubscribe(count.sid);
            self.client.publish(&count.reply, "", &[], count.sum.to_string().as_bytes());
        }
    }
}
