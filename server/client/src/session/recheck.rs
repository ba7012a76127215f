//! Clients that are in, when who may be in changes.
//!
//! Owns what a changed configuration or account does to a session: the client stays as it is, goes on with other
//! permissions and limits, or has to go.

use super::{Client, Context, Failure, error, quoted};
use crate::login::Answer;
use accounts::{AuthError, Permissions, Reason, Subscribe};
use broker::CloseReason;
use std::sync::Arc;
use wire::info::Connect;

impl Client {
    /// Accounts or users changed, by a reload of the configuration or by a token: asks again who the client is. What
    /// takes long is left to [`Context::questions`], and the answer to [`recheck`](Self::recheck).
    ///
    /// # Errors
    /// [`Failure`]: the connection ends.
    pub fn reauthenticate(&mut self, is_reload: bool, context: &mut Context<'_>) -> Result<(), Failure> {
        if !self.connected {
            return Ok(());
        }
        let table = &context.policy.table;
        let account = table.find(&self.account.name).and_then(|id| table.account(id));
        // an account that is written no more takes its clients with it, without a word
        if is_reload && !table.is_operator_mode() && account.is_none_or(|account| account.is_removed) {
            return Err(Failure(CloseReason::ClientClosed));
        }
        let connect = self.credentials.as_deref().cloned().unwrap_or_default();
        let question = self.question(connect, context);
        if question.is_slow() {
            context.questions.push(question);
            return Ok(());
        }
        match (question.verdict(), &self.by_callout) {
            // the service is not asked again: what it said counts until it expires or is revoked
            (Err(AuthError::Callout(_)), Some((key, issued_at))) => {
                let table = &context.policy.table;
                let account = table.find(&self.account.name).and_then(|id| table.account(id));
                if account.is_none_or(|account| account.is_removed) {
                    return Err(refused(context.reply, &AuthError::Refused(Reason::Unknown)));
                }
                match table.is_revoked(&self.account.name, key, *issued_at) {
                    true => Err(refused(context.reply, &AuthError::Refused(Reason::Revoked))),
                    false => Ok(()),
                }
            }
            (Err(AuthError::Callout(_)), None) => {
                context.questions.push(question);
                Ok(())
            }
            // an account that a reload took away, not one that expired or was deleted
            (Err(AuthError::AccountNeeded(_)), _) if is_reload => {
                Err(refused(context.reply, &AuthError::Refused(Reason::Unknown)))
            }
            (verdict, _) => self.recheck(question.with_verdict(verdict), context),
        }
    }

    /// Whoever would not be let in now has to go, and whoever would be let in elsewhere to come again. What the
    /// client may do, and its limits, are those of the answer from now on.
    ///
    /// # Errors
    /// [`Failure`]: the connection ends.
    pub fn recheck(&mut self, answer: Answer, context: &mut Context<'_>) -> Result<(), Failure> {
        let identity = match answer.identity {
            Ok(identity) if *identity.account_name == *self.account.name => identity,
            Ok(_) => return Err(refused(context.reply, &AuthError::Refused(Reason::Unknown))),
            Err(reason) => return Err(refused(context.reply, &reason)),
        };
        let source =
            |permissions: &Option<Arc<Permissions>>| permissions.as_ref().map(|p| p.source().clone());
        let changed = source(&identity.permissions) != source(&self.permissions);
        self.take_identity(identity, context);
        if changed {
            self.end_forbidden(context);
        }
        Ok(())
    }

    /// Ends the subscriptions that the permissions of now forbid, and says so.
    fn end_forbidden(&mut self, context: &mut Context<'_>) {
        self.link.set_deny_filter(None);
        // plans hold what links may read
        self.account.expire_plans();
        let Some(permissions) = self.permissions.clone() else { return };
        let numbers: Vec<u32> = self.subscriptions.iter().copied().collect();
        for number in numbers {
            let (mut subject, mut sid, mut queue) = (Vec::new(), Vec::new(), None);
            self.account.read(|interest| {
                let subscription = interest.get(number);
                interest.text(subscription.filter, &mut subject);
                sid.extend_from_slice(interest.sid(number));
                if subscription.queue != broker::interest::NONE {
                    queue = Some(interest.queue_name(subscription.queue).to_vec());
                }
            });
            match permissions.can_subscribe(&subject, queue.as_deref()) {
                Subscribe::Allowed => {}
                Subscribe::AllowedWithDenyFilter => self.link.set_deny_filter(Some(&permissions)),
                Subscribe::Denied => {
                    let (subject, sid) = (quoted(&subject), quoted(&sid));
                    let group = queue.map(|queue| format!(" using queue {}", quoted(&queue)));
                    let group = group.unwrap_or_default();
                    let text =
                        format!("Permissions Violation for Subscription to {subject}{group} (sid {sid})");
                    error(context.reply, &text);
                    self.end(number, context.router);
                }
            }
        }
    }
}

/// Tells a client that was let in why it must go.
pub(super) fn refused(reply: &mut Vec<u8>, reason: &AuthError) -> Failure {
    let (text, closing) = match reason {
        AuthError::Refused(Reason::Revoked) => ("User Authentication Revoked", CloseReason::Revocation),
        AuthError::Refused(Reason::AccountExpired) | AuthError::AccountNeeded(_) => {
            ("Account Authentication Expired", CloseReason::AuthenticationExpired)
        }
        AuthError::Refused(_) | AuthError::Callout(_) => {
            ("Authorization Violation", CloseReason::AuthenticationViolation)
        }
    };
    error(reply, text);
    Failure(closing)
}

/// Who wanted in, for the event that tells of the refusal. Never a password or token.
pub(super) fn describe_refused(connect: &Connect, about: &mut broker::link::About) {
    let user = [&connect.nkey, &connect.user].into_iter().find(|text| !text.is_empty());
    let redacted = if connect.auth_token.is_empty() { "" } else { "[REDACTED]" };
    about.user = user.map_or_else(|| redacted.to_owned(), Clone::clone);
    (about.name, about.lang, about.version) =
        (connect.name.clone(), connect.lang.clone(), connect.version.clone());
}
