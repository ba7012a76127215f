//! Clients that come in.
//!
//! Owns CONNECT: who the client is, whether there is room in its account, and what it asks for. Never looks at a
//! message.

use super::recheck::describe_refused;
use super::{Client, Context, Failure, error};
use crate::login::{Answer, Question};
use accounts::Identity;
use broker::link::{FLAG_HEADERS, FLAG_NO_ECHO};
use broker::{CloseReason, LinkKind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use wire::info::Connect;

impl Client {
    pub(super) fn connect(&mut self, json: &[u8], context: &mut Context<'_>) -> Result<(), Failure> {
        let connect = match Connect::decode(json) {
            Ok(connect) => connect,
            Err(_) => return Err(Failure(CloseReason::ProtocolViolation)),
        };
        if self.connected {
            // whoever says anew who he is may be another one: nothing of the one before is left
            let numbers = std::mem::take(&mut self.subscriptions);
            self.account.unsubscribe(&self.link, numbers, context.router.dirty());
        }
        // the first round trip that is known: from the server's greeting to the client's
        let start_nanos = self.link.about.lock().start_nanos;
        self.link.rtt_nanos.store(context.now_nanos.saturating_sub(start_nanos), Relaxed);
        match self.question(connect, context).answer_now() {
            Ok(answer) => self.admit(answer, context),
            Err(question) => {
                self.waiting = true;
                context.questions.push(question);
                Ok(())
            }
        }
    }

    /// Whether the answer to CONNECT is being worked out elsewhere: nothing is handled until
    /// [`admit`](Self::admit) brings it.
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Lets the client in as who it is, or not.
    ///
    /// # Errors
    /// [`Failure`]: the connection ends.
    pub fn admit(&mut self, answer: Answer, context: &mut Context<'_>) -> Result<(), Failure> {
        let connect = answer.connect;
        self.waiting = false;
        let identity = match answer.identity {
            Ok(identity) => identity,
            Err(reason) => {
                let user = &connect.user;
                tracing::error!("{} - authentication error - User {user:?}: {reason}", self.link.describe());
                error(context.reply, "Authorization Violation");
                describe_refused(&connect, &mut self.link.about.lock());
                return Err(Failure(CloseReason::AuthenticationViolation));
            }
        };
        if !connect.account.is_empty() || connect.new_account {
            error(context.reply, "Authorization Violation");
            return Err(Failure(CloseReason::AuthenticationViolation));
        }
        self.enter(identity, context)?;
        self.greet(connect, context)
    }

    /// Where clients without credentials are somebody (`no_auth_user`), they need not even say CONNECT.
    #[cold]
    pub(super) fn enter_as_guest(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        let table = &context.policy.table;
        let question = self.question(Connect::default(), context);
        if !table.auth_required_in_info()
            && !question.is_slow()
            && let Ok(identity) = question.verdict()
        {
            self.enter(identity, context)?;
            self.connected = true;
            self.credentials = Some(Box::default());
            context.logins.push(self.link.clone());
            return Ok(());
        }
        error(context.reply, "Authorization Violation");
        Err(Failure(CloseReason::AuthenticationViolation))
    }

    /// Puts the client into its account, if there is room.
    fn enter(&mut self, identity: Identity, context: &mut Context<'_>) -> Result<(), Failure> {
        let account = context.router.broker().clone().account(&identity.account_name);
        let bound = context.policy.table.account(identity.account).and_then(|a| a.limits.connections_max);
        let is_counted = self.connected && account.name == self.account.name;
        if !is_counted && bound.is_some_and(|max| account.connections_everywhere() >= max) {
            error(context.reply, "maximum account active connections exceeded");
            return Err(Failure(CloseReason::MaxAccountConnectionsExceeded));
        }
        self.account.connections.fetch_sub(1, Relaxed);
        account.connections.fetch_add(1, Relaxed);
        self.account = account;
        self.connect_until_nanos = 0;
        self.take_identity(identity, context);
        self.link.about.lock().account = self.account.name.to_string();
        Ok(())
    }

    /// Takes over what CONNECT asks for.
    fn greet(&mut self, connect: Connect, context: &mut Context<'_>) -> Result<(), Failure> {
        if !(0..=1).contains(&connect.protocol) {
            error(context.reply, "invalid client protocol");
            return Err(Failure(CloseReason::BadClientProtocolVersion));
        }
        let headers = connect.headers && context.policy.headers;
        if connect.no_responders && !headers {
            error(context.reply, "no responders requires headers support");
            return Err(Failure(CloseReason::NoRespondersRequiresHeaders));
        }
        self.link.set(FLAG_NO_ECHO, !connect.echo);
        self.link.set(FLAG_HEADERS, headers);
        self.protocol = connect.protocol;
        (self.verbose, self.pedantic, self.no_responders) =
            (connect.verbose, connect.pedantic, connect.no_responders);
        if !self.connected {
            context.logins.push(self.link.clone());
        }
        self.connected = true;
        {
            let mut about = self.link.about.lock();
            (about.name, about.lang, about.version) =
                (connect.name.clone(), connect.lang.clone(), connect.version.clone());
            about.connected = true;
        }
        if context.policy.table.auth_required() {
            self.credentials = Some(Box::new(connect));
        }
        self.ok(context);
        Ok(())
    }

    pub(super) fn question(&self, connect: Connect, context: &Context<'_>) -> Question {
        Question {
            table: context.policy.table.clone(),
            connect,
            nonce: self.nonce.clone(),
            certificate: self.link.transport.peer_certificate(),
            now_nanos: context.now_nanos,
            link: self.link.clone(),
        }
    }

    /// What the client may do and for how long.
    pub(super) fn take_identity(&mut self, mut identity: Identity, context: &mut Context<'_>) {
        if identity.token.is_some() {
            let permissions = identity.permissions.take();
            identity.permissions =
                permissions.map(|permissions| context.router.shared_permissions(&self.account, permissions));
        }
        self.scope = context.router.scope(&self.account, LinkKind::Client, identity.permissions.as_ref());
        if let Some(responses) = identity.permissions.as_ref().and_then(|permissions| permissions.responses())
        {
            self.link.track_replies(responses);
        }
        let says_more = identity.permissions.is_some()
            || identity.token.is_some()
            || identity.expires_unix_nanos.is_some();
        self.link.about.lock().identity = says_more.then(|| Arc::new(identity.clone()));
        (self.permissions, self.limits) = (identity.permissions, identity.limits);
        self.expires_nanos = identity.expires_unix_nanos.unwrap_or(0);
        self.account_expires_nanos = identity.account_expires_unix_nanos.unwrap_or(0);
        let token = identity.token.filter(|_| identity.by_callout);
        self.by_callout = token.map(|token| (token.public_key, token.issued_at_seconds));
        self.link.about.lock().user = identity.user;
    }
}
