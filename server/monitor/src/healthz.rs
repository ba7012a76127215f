//! `/healthz`, `/livez` and `/readyz`: may clients be sent here.
//!
//! Owns the checks of a request and the form of the answer. Never checks anything itself: the [`Source`] says
//! whether the listeners are open. Without JetStream the `js-*` forms add nothing, as on a nats-server that has
//! JetStream off.

use serde::{Deserialize, Serialize};

use crate::query::{Error, Query};
use crate::source::Source;

/// Whether the server takes connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// Every listener is open.
    #[default]
    Ready,
    /// Some are not; the text says which (`server`, `route`) and why.
    NotReady(String),
}

/// What a request for `/healthz` asks; the JSON form is the payload of `$SYS.REQ.SERVER.*.HEALTHZ`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct HealthzOptions {
    /// Old name of `js_enabled_only`.
    pub js_enabled: bool,
    /// Only that JetStream is on.
    pub js_enabled_only: bool,
    /// Only the server, no stream.
    pub js_server_only: bool,
    /// Only the meta group.
    pub js_meta_only: bool,
    /// Account of the stream to check.
    pub account: String,
    /// Stream to check.
    pub stream: String,
    /// Consumer to check.
    pub consumer: String,
    /// A list of errors in place of one text.
    pub details: bool,
}

impl HealthzOptions {
    /// Reads the parameters of the HTTP endpoint.
    pub fn parse(query: &Query<'_>) -> Result<Self, Error> {
        Ok(Self {
            js_enabled: query.boolean("js-enabled")?,
            js_enabled_only: query.boolean("js-enabled-only")?,
            js_server_only: query.boolean("js-server-only")?,
            js_meta_only: query.boolean("js-meta-only")?,
            details: query.boolean("details")?,
            account: query.text("account").into_owned(),
            stream: query.text("stream").into_owned(),
            consumer: query.text("consumer").into_owned(),
        })
    }
}

/// The document of `/healthz` (`HealthStatus` in monitor.go).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthStatus {
    /// `ok` or `error`.
    pub status: &'static str,
    /// HTTP status; left out of the HTTP body, which comes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// What is wrong, without `details`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// What is wrong, with `details`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<HealthError>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthError {
    /// What sort of thing.
    #[serde(rename = "type")]
    pub kind: HealthErrorKind,
    /// Text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// Sorts of [`HealthError`]; the JetStream ones come with JetStream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum HealthErrorKind {
    /// A listener is not open.
    Connection,
    /// The request makes no sense.
    BadRequest,
}

/// Answers `/healthz`; `status_code` is always set.
pub fn document(source: &dyn Source, options: &HealthzOptions) -> HealthStatus {
    let failed = |code, kind, error: String| {
        let mut health = HealthStatus {
            status: "error",
            status_code: Some(code),
            error: String::new(),
            errors: Vec::new(),
        };
        if options.details {
            health.errors.push(HealthError { kind, error });
        } else {
            health.error = error;
        }
        health
    };
    if options.account.is_empty() && !options.stream.is_empty() {
        let error = "\"account\" must not be empty when checking stream health".to_owned();
        return failed(400, HealthErrorKind::BadRequest, error);
    }
    if options.stream.is_empty() && !options.consumer.is_empty() {
        let error = "\"stream\" must not be empty when checking consumer health".to_owned();
        return failed(400, HealthErrorKind::BadRequest, error);
    }
    match source.readiness() {
        Readiness::Ready => {
            HealthStatus { status: "ok", status_code: Some(200), error: String::new(), errors: Vec::new() }
        }
        Readiness::NotReady(which) => {
            let error = format!("failed to be ready for connections after 1ms: {which}");
            failed(500, HealthErrorKind::Connection, error)
        }
    }
}
