//! Reports on how long imported services took (ADR-3).
//!
//! Owns what of the requests is measured and the text of the reports; the way of requests and responses is `detour`'s.

use super::Router;
use crate::account::Account;
use crate::link::{Link, LinkKind, LinkParts, Transport};
use crate::registry::MEASUREMENTS;
use crate::requester::{Detail, quote, rfc3339, write_client};
use crate::responses::{End, Measured, Pending, Second};
use std::fmt::Write;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Type of the reports.
const TYPE: &str = "io.nats.server.metric.v1.service_latency";

/// A report, apart from what all have.
pub(crate) struct Report {
    status: u16,
    description: &'static str,
    /// JSON, as the next two.
    requestor: String,
    responder: String,
    header: String,
    start_nanos: u64,
    service_nanos: u64,
    system_nanos: u64,
    total_nanos: u64,
}

impl Report {
    /// Puts in what the service's server measured.
    fn merge(&mut self, second: Second) {
        let measured = second.service_nanos + second.round_trip_nanos;
        self.system_nanos = self.service_nanos.saturating_sub(measured);
        (self.service_nanos, self.responder) = (second.service_nanos, second.responder);
    }
}

impl Router {
    /// Whether a request is measured, and the JSON of the headers that asked for it (empty when it was drawn).
    pub(super) fn sample(&mut self, percent: u8, header: &[u8]) -> Option<String> {
        if percent >= 100 || (percent > 0 && self.below(100) <= u64::from(percent)) {
            return Some(String::new());
        }
        asked_for(header)
    }

    fn client(&self, link: &Link, full: bool) -> String {
        let mut text = String::new();
        if link.kind == LinkKind::Client {
            write_client(link, Detail { full, server: false }, None, &self.broker.names(), &mut text);
        }
        text
    }

    /// A request without a reply subject came to a measured service.
    pub(super) fn report_bad_request(&mut self, account: &Arc<Account>, measured: &Measured, share: bool) {
        let link = &measured.requestor;
        let report = Report {
            status: 400,
            description: "Bad Request",
            requestor: self.client(link, share),
            responder: String::new(),
            header: measured.header.clone(),
            start_nanos: self.now_nanos.saturating_sub(link.rtt_nanos.load(Relaxed)),
            service_nanos: 0,
            system_nanos: 0,
            total_nanos: 0,
        };
        self.report(account, &measured.results, &report, link);
    }

    /// The first response came.
    pub(super) fn report_latency(
        &mut self,
        account: &Arc<Account>,
        pending: &Arc<Pending>,
        responder: &Arc<Link>,
    ) {
        let Some(measured) = &pending.measured else { return };
        let since_nanos = pending.since_nanos.load(Relaxed);
        let round_trip = |link: &Link| match link.kind {
            LinkKind::Client => link.rtt_nanos.load(Relaxed),
            _ => 0,
        };
        let (asking, answering) = (round_trip(&measured.requestor), round_trip(responder));
        let taken = self.now_nanos.saturating_sub(since_nanos);
        let mut report = Report {
            status: 200,
            description: "",
            requestor: self.client(&measured.requestor, pending.share),
            responder: self.client(responder, true),
            header: measured.header.clone(),
            start_nanos: since_nanos.saturating_sub(asking),
            service_nanos: taken.saturating_sub(answering),
            system_nanos: 0,
            total_nanos: asking + taken,
        };
        if responder.kind == LinkKind::Route && self.broker.measurement_token().is_some() {
            let mut merge = measured.merge.lock();
            match merge.second.take() {
                Some(second) => report.merge(second),
                None => {
                    merge.first = Some(report);
                    drop(merge);
                    account.responses.await_measurement(pending);
                    return;
                }
            }
        }
        self.report(account, &measured.results, &report, responder);
    }

    /// A request that another server measures was answered here: it is told how long that took.
    pub(super) fn report_to_requestor(
        &mut self,
        account: &Arc<Account>,
        reply: &[u8],
        responder: &Arc<Link>,
    ) {
        let Some(begun_nanos) = self.broker.tracked.take(reply) else { return };
        let system = self.broker.names().system_account.clone();
        if system.is_empty() || responder.kind != LinkKind::Client {
            return;
        }
        let round_trip = responder.rtt_nanos.load(Relaxed);
        let service = self.now_nanos.saturating_sub(begun_nanos).saturating_sub(round_trip);
        let reply = String::from_utf8_lossy(reply);
        let Some(token) = reply.rsplit('.').nth(1) else { return };
        let (mut name, mut id) = (String::new(), String::new());
        quote(&account.name, &mut name);
        quote(&reply, &mut id);
        let text = format!(
            "{{\"account\":{name},\"req_id\":{id},\"m2\":{{\"type\":\"\",\"id\":\"\",\
             \"timestamp\":\"0001-01-01T00:00:00Z\",\"status\":200,\"responder\":{},\"start\":\"{}\",\
             \"service\":{service},\"system\":0,\"total\":{}}}}}",
            self.client(responder, true),
            rfc3339(begun_nanos),
            service + round_trip,
        );
        let subject = format!("{MEASUREMENTS}{token}");
        let system = self.broker.account(&system);
        self.announce(&system, subject.as_bytes(), text.as_bytes(), responder);
    }

    /// Another server tells how long a service took that answers a request from here.
    pub(super) fn merge_measurement(&mut self, payload: &[u8], from: &Arc<Link>) {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(payload) else { return };
        let (account, request) = (value["account"].as_str(), value["req_id"].as_str());
        let Some(account) = account.and_then(|name| self.broker.find_account(name)) else { return };
        let Some(pending) = request.and_then(|request| account.responses.measured(request.as_bytes())) else {
            return;
        };
        let Some(measured) = &pending.measured else { return };
        let responder = &value["m2"]["responder"];
        let second = Second {
            responder: if responder.is_object() { responder.to_string() } else { String::new() },
            round_trip_nanos: responder["rtt"].as_u64().unwrap_or(0),
            service_nanos: value["m2"]["service"].as_u64().unwrap_or(0),
        };
        let report = {
            let mut merge = measured.merge.lock();
            match merge.first.take() {
                Some(mut report) => {
                    report.merge(second);
                    report
                }
                None => {
                    merge.second = Some(second);
                    return;
                }
            }
        };
        self.report(&account, &measured.results, &report, from);
    }

    fn report_failure(&mut self, account: &Arc<Account>, pending: &Pending, end: End, from: &Arc<Link>) {
        let Some(measured) = &pending.measured else { return };
        let (status, description) = match end {
            End::InterestLost => (408, "Request Timeout"),
            End::NoResponders => (503, "Service Unavailable"),
            End::Timeout => (504, "Service Timeout"),
        };
        let asking = measured.requestor.rtt_nanos.load(Relaxed);
        let report = Report {
            status,
            description,
            requestor: self.client(&measured.requestor, pending.share),
            responder: String::new(),
            header: measured.header.clone(),
            start_nanos: pending.since_nanos.load(Relaxed).saturating_sub(asking),
            service_nanos: 0,
            system_nanos: 0,
            total_nanos: 0,
        };
        self.report(account, &measured.results, &report, from);
    }

    fn report(&mut self, account: &Arc<Account>, results: &str, report: &Report, from: &Arc<Link>) {
        let mut text = String::new();
        let id: String = (0..2).map(|_| format!("{:011X}", self.random_bits() >> 20)).collect();
        let time = rfc3339(self.now_nanos);
        let _ = write!(
            text,
            "{{\"type\":\"{TYPE}\",\"id\":\"{id}\",\"timestamp\":\"{time}\",\"status\":{}",
            report.status
        );
        if !report.description.is_empty() {
            let _ = write!(text, ",\"description\":\"{}\"", report.description);
        }
        let parts = [
            ("requestor", &*report.requestor),
            ("responder", &*report.responder),
            ("header", &*report.header),
        ];
        for (name, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
            let _ = write!(text, ",\"{name}\":{part}");
        }
        let _ = write!(
            text,
            ",\"start\":\"{}\",\"service\":{},\"system\":{},\"total\":{}}}",
            rfc3339(report.start_nanos),
            report.service_nanos,
            report.system_nanos,
            report.total_nanos
        );
        self.announce(account, results.as_bytes(), text.as_bytes(), from);
    }

    /// Ends requests to services that took too long, and reports those that were measured.
    pub(super) fn expire_responses(&mut self) {
        for account in self.broker.responders() {
            for (pending, end) in account.responses.expire(self.now_nanos) {
                let Some(from) = self.own_link() else { return };
                self.report_failure(&account, &pending, end, &from);
            }
        }
    }

    /// The link in whose name this server itself publishes.
    pub(super) fn own_link(&mut self) -> Option<Arc<Link>> {
        if self.own_link.is_none() {
            let parts = LinkParts {
                id: 0,
                index: crate::interest::SERVER,
                kind: LinkKind::Internal,
                token: u32::MAX,
                owner: self.broker.mailboxes().first()?.clone(),
                transport: Box::new(Nowhere),
                about: Default::default(),
            };
            self.own_link = Some(Arc::new(Link::new(parts)));
        }
        self.own_link.clone()
    }
}

/// Where nothing is ever sent to.
struct Nowhere;

impl Transport for Nowhere {
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
    fn rearm(&self) {}
    fn shutdown(&self) {}
}

/// The tracing headers that ask for a measurement, as JSON; `None` when there are none or they ask for none.
fn asked_for(header: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(header).ok()?;
    let value = |name: &str| {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let json = |wanted: &dyn Fn(&str) -> bool| {
        let mut out = String::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let key = canonical(key.trim());
            if wanted(&key) {
                out.push(if out.is_empty() { '{' } else { ',' });
                quote(&key, &mut out);
                out.push_str(":[");
                quote(value.trim(), &mut out);
                out.push(']');
            }
        }
        out.push('}');
        out
    };
    const B3: [&str; 4] = ["X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled"];
    let of_b3 = |key: &str| B3.contains(&key);
    if let Some((_, id)) = value("Uber-Trace-Id") {
        let flags = id.split(':').nth(3).filter(|_| id.split(':').count() == 4)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        return (flags & 1 == 1).then(|| json(&|key| key == "Uber-Trace-Id" || key.starts_with("Uberctx-")));
    }
    match value("X-B3-Sampled") {
        Some((_, "1")) => return Some(json(&of_b3)),
        Some((_, "0")) => return None,
        _ => {}
    }
    if value("X-B3-TraceId").is_some() {
        return Some(json(&of_b3));
    }
    if let Some((_, b3)) = value("B3") {
        let parts: Vec<&str> = b3.split('-').collect();
        let denied = parts.get(2) == Some(&"0") || parts == ["0"];
        return (!denied).then(|| json(&|key| key == "B3"));
    }
    let (_, context) = value("Traceparent")?;
    let flags = context.split('-').nth(3).filter(|flags| flags.len() == 2)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (flags & 1 == 1).then(|| json(&|key| key == "Traceparent" || key == "Tracestate"))
}

/// A header's name as Go writes it: `X-B3-Traceid`.
fn canonical(name: &str) -> String {
    let mut begins = true;
    let letters = name.chars().map(|letter| {
        let upper = std::mem::replace(&mut begins, letter == '-');
        if upper { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
    });
    letters.collect()
}

#[cfg(test)]
mod tests {
    use super::asked_for;

    #[test]
    fn tracing_headers_ask_for_a_measurement_or_not() {
        let asked = |lines: &str| asked_for(format!("NATS/1.0\r\n{lines}\r\n\r\n").as_bytes());
        assert_eq!(asked("X-B3-Sampled: 1").as_deref(), Some(r#"{"X-B3-Sampled":["1"]}"#));
        assert_eq!(asked("X-B3-Sampled: 0\r\nX-B3-TraceId: a"), None);
        let both = asked("X-B3-TraceId: 80f1\r\nOther: x\r\nx-b3-spanid: e4");
        assert_eq!(both.as_deref(), Some(r#"{"X-B3-Traceid":["80f1"],"X-B3-Spanid":["e4"]}"#));
        assert!(asked("B3: 80f1-e457-1-05e3").is_some());
        assert_eq!(asked("B3: 80f1-e457-0-05e3"), None);
        assert_eq!(asked("B3: 0"), None);
        assert!(asked("Uber-Trace-Id: 47:5a:47:1").is_some());
        assert_eq!(asked("Uber-Trace-Id: 47:5a:47:0"), None);
        assert!(asked("Traceparent: 00-4bf9-00f0-01").is_some());
        assert_eq!(asked("Traceparent: 00-4bf9-00f0-00"), None);
        assert_eq!(asked("A: b"), None);
    }
}
