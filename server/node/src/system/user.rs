//! `$SYS.REQ.USER.INFO`: who the asking user is, and what it may do.
//!
//! The request comes by an import that shares who asks; only the server that the user is connected to hears it.

use super::System;
use crate::shared::Shared;
use engine::Received;
use monitor::request::{ApiError, Envelope, Permissions, ResponsePermission, UserInfo};
use monitor::routez::SubjectPermission;
use serde::Deserialize;
use std::time::Duration;

/// Who asks (`Nats-Request-Info`).
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Asking {
    /// Number of the connection.
    id: u64,
    /// Its account.
    pub acc: String,
    /// The account through which the request came, if that is another.
    pub svc: String,
    /// The user.
    user: String,
}

impl Asking {
    /// Reads the header; `None` without it.
    pub fn of(received: &Received<'_>) -> Option<Asking> {
        let headers = std::str::from_utf8(received.headers).ok()?;
        let line = headers.lines().find_map(|line| line.strip_prefix("Nats-Request-Info:"))?;
        serde_json::from_str(line.trim()).ok()
    }
}

impl System {
    pub(super) fn answer_user(&self, shared: &Shared, received: &Received<'_>) {
        let server = self.stamp(shared);
        let (data, error) = match Asking::of(received) {
            Some(asking) => (Some(Some(self.user(shared, asking, received.now_nanos))), None),
            None => (None, Some(ApiError { code: 400, description: String::new() })),
        };
        if let Ok(answer) = serde_json::to_vec(&Envelope { server, data, error }) {
            received.answer(&answer);
        }
    }

    fn user(&self, shared: &Shared, asking: Asking, now_nanos: u64) -> UserInfo {
        let link = shared.broker.links().into_iter().find(|link| link.id == asking.id);
        let identity = link.and_then(|link| link.about.lock().identity.clone());
        let identity = identity.as_deref();
        let expires_nanos = identity.and_then(|identity| identity.expires_unix_nanos);
        let permissions = identity.and_then(|identity| identity.permissions.as_deref());
        UserInfo {
            user: asking.user,
            account_name: shared.account_tag(&asking.acc),
            account: asking.acc,
            user_name: identity
                .and_then(|identity| identity.token.as_ref())
                .map(|token| token.name.clone())
                .unwrap_or_default(),
            permissions: permissions.map(told),
            expires: Duration::from_nanos(expires_nanos.map_or(0, |nanos| nanos.saturating_sub(now_nanos))),
        }
    }
}

/// A user's permissions as it is told them.
fn told(permissions: &accounts::Permissions) -> Permissions {
    let source = permissions.source();
    let lists = |lists: &Option<accounts::SubjectsSource>| {
        let lists = lists.clone().unwrap_or_default();
        // there even when empty, as nats-server writes it
        Some(SubjectPermission { allow: lists.allow.unwrap_or_default(), deny: lists.deny })
    };
    Permissions {
        publish: lists(&source.publish),
        subscribe: lists(&source.subscribe),
        responses: permissions.responses().map(|responses| ResponsePermission {
            max: bound(responses.messages_max),
            ttl: bound(responses.expires_nanos),
        }),
    }
}

/// nats-server writes no bound as -1.
fn bound(bound: Option<u64>) -> i64 {
    bound.map_or(-1, |bound| i64::try_from(bound).unwrap_or(i64::MAX))
}
