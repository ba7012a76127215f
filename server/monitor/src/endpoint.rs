//! The HTTP endpoints: which path gives which document.
//!
//! Owns paths, the base path, status codes, content types and the request counters. Never does HTTP: the caller
//! passes a path and a query string and sends what comes back.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::accountz::{AccountStatzOptions, AccountzOptions};
use crate::connz::ConnzOptions;
use crate::healthz::{HealthzOptions, Readiness};
use crate::ipqueuesz::IpqueueszOptions;
use crate::query::{Error, Query};
use crate::routez::RoutezOptions;
use crate::source::Source;
use crate::subsz::SubszOptions;
use crate::unbuilt::JszOptions;
use crate::{accountz, connz, healthz, index, ipqueuesz, json, metrics, routez, subsz, unbuilt, varz};

/// One thing that the monitor port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each name is its path")]
pub enum Endpoint {
    Root,
    Varz,
    Connz,
    Routez,
    Gatewayz,
    Leafz,
    Subsz,
    Accountz,
    AccountStatz,
    Jsz,
    Healthz,
    Ipqueuesz,
    Raftz,
    /// The process runs. Not part of nats-server.
    Livez,
    /// The listeners are open. Not part of nats-server.
    Readyz,
    /// Numbers for Prometheus. Not part of nats-server.
    Metrics,
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 16] = [
        Self::Root,
        Self::Varz,
        Self::Connz,
        Self::Routez,
        Self::Gatewayz,
        Self::Leafz,
        Self::Subsz,
        Self::Accountz,
        Self::AccountStatz,
        Self::Jsz,
        Self::Healthz,
        Self::Ipqueuesz,
        Self::Raftz,
        Self::Livez,
        Self::Readyz,
        Self::Metrics,
    ];

    /// Path below the base path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::Varz => "/varz",
            Self::Connz => "/connz",
            Self::Routez => "/routez",
            Self::Gatewayz => "/gatewayz",
            Self::Leafz => "/leafz",
            Self::Subsz => "/subsz",
            Self::Accountz => "/accountz",
            Self::AccountStatz => "/accstatz",
            Self::Jsz => "/jsz",
            Self::Healthz => "/healthz",
            Self::Ipqueuesz => "/ipqueuesz",
            Self::Raftz => "/raftz",
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
        }
    }

    fn from_path(path: &str) -> Option<Self> {
        if path == "/subscriptionsz" {
            return Some(Self::Subsz);
        }
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// nats-server counts requests for these in `http_req_stats`.
    fn counted(self) -> bool {
        !matches!(self, Self::Ipqueuesz | Self::Raftz | Self::Livez | Self::Readyz | Self::Metrics)
    }
}

/// Counts requests by endpoint; what a [`Source`] keeps for [`Source::count_request`] and `http_req_stats`.
#[derive(Debug, Default)]
pub struct RequestCounters([AtomicU64; Endpoint::ALL.len()]);

impl RequestCounters {
    /// Counts one request.
    pub fn count(&self, endpoint: Endpoint) {
        if let Some(counter) = self.0.get(endpoint as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts by path, without the endpoints that nobody asked for.
    pub fn by_path(&self) -> BTreeMap<String, u64> {
        Endpoint::ALL
            .iter()
            .zip(&self.0)
            .map(|(endpoint, counter)| (endpoint.path().to_owned(), counter.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// An answer, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// Scripts of any origin may read it: `Access-Control-Allow-Origin: *`.
    pub any_origin: bool,
    /// Value of `Location`, for a redirect.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

impl Response {
    fn json(document: &impl Serialize) -> Self {
        Self {
            status: 200,
            content_type: JSON,
            any_origin: true,
            location: None,
            body: json::pretty(document),
        }
    }

    fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type: TEXT, any_origin: false, location: None, body: body.into() }
    }

    /// The answer to a path that nothing is served at.
    pub fn not_found() -> Self {
        Self::text(404, "404 page not found\n")
    }
}

impl From<Error> for Response {
    fn from(error: Error) -> Self {
        Self::text(400, error.to_string())
    }
}

/// Answers a request for `path` with the encoded `query` (empty for none). `base_path` is `http_base_path` as
/// configured.
pub fn respond(source: &dyn Source, base_path: &str, path: &str, query: &str) -> Response {
    let clean = clean(path);
    if clean != path {
        return redirect(&clean, query);
    }
    let base = base(base_path);
    // With a base path, the root is the base path itself.
    let below = match path.strip_prefix(&*base) {
        Some("") => "/",
        Some(below) if base.is_empty() || (below.starts_with('/') && below != "/") => below,
        _ => return Response::not_found(),
    };
    let Some(endpoint) = Endpoint::from_path(below) else { return Response::not_found() };
    if endpoint.counted() {
        source.count_request(endpoint);
    }
    answer(source, endpoint, &base, Query::new(query)).unwrap_or_else(Response::from)
}

fn answer(source: &dyn Source, endpoint: Endpoint, base: &str, query: Query<'_>) -> Result<Response, Error> {
    Ok(match endpoint {
        Endpoint::Root => Response {
            content_type: "text/html; charset=utf-8",
            ..Response::text(200, index::page(&source.varz(), base))
        },
        Endpoint::Varz => Response::json(&varz::document(source)),
        Endpoint::Connz => Response::json(&connz::document(source, &ConnzOptions::parse(&query)?)?),
        Endpoint::Routez => Response::json(&routez::document(source, RoutezOptions::parse(&query)?)),
        Endpoint::Gatewayz => {
            unbuilt::check_gatewayz(&query)?;
            Response::json(&unbuilt::gatewayz(source))
        }
        Endpoint::Leafz => {
            query.boolean("subs")?;
            Response::json(&unbuilt::leafz(source))
        }
        Endpoint::Subsz => Response::json(&subsz::document(source, &SubszOptions::parse(&query)?)?),
        Endpoint::Accountz => Response::json(&accountz::document(source, &AccountzOptions::parse(&query))?),
        Endpoint::AccountStatz => {
            Response::json(&accountz::statistics(source, &AccountStatzOptions::parse(&query)?))
        }
        Endpoint::Jsz => Response::json(&unbuilt::jsz(source, JszOptions::parse(&query)?)?),
        Endpoint::Healthz => {
            let mut health = healthz::document(source, &HealthzOptions::parse(&query)?);
            let status = health.status_code.take().unwrap_or(200);
            Response { status, body: json::compact(&health), ..Response::json(&()) }
        }
        Endpoint::Ipqueuesz => {
            Response::json(&ipqueuesz::document(source, &IpqueueszOptions::parse(&query)?))
        }
        Endpoint::Raftz => Response::text(404, "No Raft nodes registered"),
        Endpoint::Livez => Response::text(200, "ok"),
        Endpoint::Readyz => match source.readiness() {
            Readiness::Ready => Response::text(200, "ok"),
            Readiness::NotReady(which) => Response::text(503, format!("not ready: {which}")),
        },
        Endpoint::Metrics => {
            Response { content_type: metrics::CONTENT_TYPE, ..Response::text(200, metrics::text(source)) }
        }
    })
}

/// Leads a path with empty, `.` or `..` segments to its plain form, as Go's `ServeMux` does.
fn redirect(clean: &str, query: &str) -> Response {
    let mut location = clean.to_owned();
    if !query.is_empty() {
        location.push('?');
        location.push_str(query);
    }
    Response { location: Some(location), ..Response::text(307, "") }
}

/// The configured base path with one slash in front and none behind; empty for the root.
fn base(configured: &str) -> String {
    let clean = clean(configured);
    clean.trim_end_matches('/').to_owned()
}

/// Go's `path.Clean` of an absolute path, keeping a slash at the end.
fn clean(path: &str) -> Cow<'_, str> {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len() + 1);
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if segments.is_empty() || path.ends_with('/') {
        clean.push('/');
    }
    if clean == path { Cow::Borrowed(path) } else { Cow::Owned(clean) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_has_its_own_counter_and_path() {
        for (number, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint as usize, number);
            assert_eq!(Endpoint::from_path(endpoint.path()), Some(endpoint));
        }
        let counters = RequestCounters::default();
        counters.count(Endpoint::Connz);
        counters.count(Endpoint::Connz);
        assert_eq!(counters.by_path(), BTreeMap::from([("/connz".to_owned(), 2)]));
    }

    #[test]
    fn paths_are_cleaned_like_go() {
        for (path, expected) in [
            ("//varz", "/varz"),
            ("/a/../varz", "/varz"),
            ("", "/"),
            ("/./", "/"),
            ("/varz/", "/varz/"),
            ("/../..", "/"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn a_base_path_may_be_written_in_several_ways() {
        for (configured, expected) in [("", ""), ("/", ""), ("x", "/x"), ("/x/", "/x"), ("/x//y", "/x/y")] {
            assert_eq!(base(configured), expected, "{configured}");
        }
    }
}
