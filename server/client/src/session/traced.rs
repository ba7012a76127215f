//! Messages whose headers ask for a trace.
//!
//! Owns what the publisher of such a message is told, which is what it is told of any other; what is noted of the
//! message is the broker's.

use super::{Client, Context, error, is_reserved_reply};
use broker::{Tracing, Verdict};
use wire::client::Publish;
use wire::lines::quoted;

impl Client {
    /// Publishes a message that may ask for a trace.
    #[cold]
    pub(super) fn publish_traced(&mut self, publish: &Publish, read: &[u8], context: &mut Context<'_>) {
        self.settle(read, context);
        if !context.reply.is_empty() {
            context.router.push_protocol(&self.link, context.reply);
            context.reply.clear();
        }
        self.publish_counters(context.now_nanos);
        let tracing = context.router.begin_trace(&self.link, self.scope, read, publish);
        let (read, publish) = match &tracing {
            Tracing::No | Tracing::Begun => (read, publish),
            Tracing::Instead(parcel) => (parcel.bytes(), parcel.publish()),
            Tracing::Skip => return,
            Tracing::Refused(subject) => {
                return error(
                    context.reply,
                    &format!("Permissions Violation for Publish to {}", quoted(subject)),
                );
            }
        };
        let reply = &read[publish.reply_range()];
        if is_reserved_reply(reply) {
            let refused = format!("Permissions Violation for Publish with Reply of {}", quoted(reply));
            context.router.end_trace(&refused);
            return error(context.reply, &refused);
        }
        let verdict = context.router.publish(self.scope, read, publish);
        if verdict == Verdict::Denied {
            if !self.may_answer(publish, read, context) {
                let subject = context.router.mapped_subject().unwrap_or(&read[publish.subject_range()]);
                let refused = format!("Permissions Violation for Publish to {}", quoted(subject));
                context.router.end_trace(&refused);
                return error(context.reply, &refused);
            }
            self.ok(context);
        } else {
            self.not_delivered(verdict, publish, read, context);
        }
        if verdict != Verdict::Detour {
            context.router.finish_traced(&self.link, self.scope, read, publish);
        }
        context.router.end_trace("");
    }
}
