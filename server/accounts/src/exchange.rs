//! Exports and imports: what accounts let one another see.
//!
//! Owns who may import what, the compiled form of each import with the rewriting of its subjects, and the
//! search for cycles. Never forwards a message and keeps no record of pending responses: the broker does,
//! from what is compiled here. Rules follow nats-server's `accounts.go`.

use crate::{AccountId, ExchangeError};
use std::collections::BTreeSet;
use subject::{Transform, collide, is_literal, is_subset, is_valid, is_valid_publish, tokens, transform};

/// How many responses a service sends to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseType {
    /// One.
    #[default]
    Singleton,
    /// Any number.
    Stream,
    /// One, in pieces.
    Chunked,
}

/// Where a service's latency is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Percentage of requests measured, 1 to 100; 0 measures those whose headers ask for it.
    pub sampling_percent: u8,
    /// Subject of the reports, in the exporting account.
    pub results: String,
}

/// Whom an export admits. With everything empty: everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessSource {
    /// Names of accounts.
    pub accounts: Vec<String>,
    /// Importers need an activation token.
    pub token_required: bool,
    /// The token of the subject, counted from 1, that must be the importing account's name; 0 for none.
    pub account_token_position: usize,
    /// Activation tokens of these accounts (`*` for all) issued at or before the time, in seconds since 1970,
    /// are void.
    pub revocations: Vec<(String, i64)>,
}

/// A stream export as configuration or a JWT writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamExportSource {
    /// What may be subscribed to.
    pub subject: String,
    /// By whom.
    pub access: AccessSource,
}

/// A service export as configuration or a JWT writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceExportSource {
    /// Where requests may be sent.
    pub subject: String,
    /// By whom.
    pub access: AccessSource,
    /// How many responses there are.
    pub response_type: ResponseType,
    /// How long a response may take; 0 for the default of two minutes.
    pub response_threshold_nanos: u64,
    /// Measuring, if wanted.
    pub latency: Option<Latency>,
    /// Message traces may follow requests into the account.
    pub allow_trace: bool,
}

/// A stream import as configuration or a JWT writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamImportSource {
    /// Exporting account.
    pub account: String,
    /// Subject there.
    pub subject: String,
    /// Put before the subject here. Excludes `to`.
    pub prefix: String,
    /// The subject here, wildcards as `$n`; empty for the same.
    pub to: String,
    /// Activation token, if the export asks for one.
    pub token: Option<String>,
    /// Message traces may follow messages into this account.
    pub allow_trace: bool,
}

/// A service import as configuration or a JWT writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceImportSource {
    /// Exporting account.
    pub account: String,
    /// Subject there.
    pub subject: String,
    /// The subject here, wildcards as `$n`; empty for the same.
    pub to: String,
    /// Tell the service who asks (`Nats-Request-Info`).
    pub share: bool,
    /// Activation token, if the export asks for one.
    pub token: Option<String>,
}

const RESPONSE_THRESHOLD_NANOS: u64 = 120_000_000_000;

/// What an account exports.
#[derive(Clone, Debug, Default)]
pub struct Exports {
    /// Streams, in the order written.
    pub streams: Vec<StreamExport>,
    /// Services, in the order written.
    pub services: Vec<ServiceExport>,
}

/// A compiled stream export.
#[derive(Clone, Debug)]
pub struct StreamExport {
    /// What may be subscribed to.
    pub subject: Box<str>,
    access: Access,
}

/// A compiled service export.
#[derive(Clone, Debug)]
pub struct ServiceExport {
    /// Where requests may be sent.
    pub subject: Box<str>,
    /// How many responses there are.
    pub response_type: ResponseType,
    /// How long a response may take.
    pub response_threshold_nanos: u64,
    /// Measuring, if wanted.
    pub latency: Option<Latency>,
    /// Message traces may follow requests into the account.
    pub allow_trace: bool,
    access: Access,
}

/// What an account imports.
#[derive(Clone, Debug, Default)]
pub struct Imports {
    /// Streams, in the order written.
    pub streams: Vec<StreamImport>,
    /// Services, in the order written.
    pub services: Vec<ServiceImport>,
}

impl Imports {
    /// When the first of the activation tokens expires that these needed, in seconds since 1970.
    pub(crate) fn expires_seconds(&self) -> Option<i64> {
        let streams = self.streams.iter().filter_map(|import| import.expires_seconds);
        streams.chain(self.services.iter().filter_map(|import| import.expires_seconds)).min()
    }
}

/// How a subject on one side of an import becomes the one on the other side.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// It stays.
    Same,
    /// It is always this.
    Fixed(Box<str>),
    /// It is transformed.
    Transform(Box<Transform>),
}

/// A compiled stream import.
#[derive(Clone, Debug)]
pub struct StreamImport {
    /// Exporting account.
    pub account: AccountId,
    /// Filter there.
    pub from: Box<str>,
    /// Filter here.
    pub to: Box<str>,
    /// Message traces may follow messages into this account.
    pub allow_trace: bool,
    /// When its activation token expires, in seconds since 1970.
    pub expires_seconds: Option<i64>,
    inward: Rewrite,
    outward: Option<Box<Transform>>,
}

/// A compiled service import.
#[derive(Clone, Debug)]
pub struct ServiceImport {
    /// Exporting account.
    pub account: AccountId,
    /// Filter here.
    pub from: Box<str>,
    /// Filter there.
    pub to: Box<str>,
    /// Tell the service who asks.
    pub share: bool,
    /// The export's.
    pub response_type: ResponseType,
    /// The export's.
    pub response_threshold_nanos: u64,
    /// The export's.
    pub latency: Option<Latency>,
    /// The export's.
    pub allow_trace: bool,
    /// When its activation token expires, in seconds since 1970.
    pub expires_seconds: Option<i64>,
    outward: Rewrite,
}

/// Compiled [`AccessSource`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    approved: BTreeSet<String>,
    token_required: bool,
    position: usize,
    revocations: Vec<(String, i64)>,
}

/// Who asks for an import, and with what.
pub(crate) struct Importer<'a> {
    pub name: &'a str,
    /// Looks at an activation token on behalf of an export with these revocations.
    pub activation: &'a Activation<'a>,
}

/// From revocations to an admission, or nothing if no token activates the import.
pub(crate) type Activation<'a> = dyn Fn(&[(String, i64)]) -> Option<Admission> + 'a;

/// An export lets an importer in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Admission {
    /// Until then, in seconds since 1970.
    pub expires_seconds: Option<i64>,
}

impl Access {
    fn add(&mut self, source: &AccessSource, subject: &str) -> Result<(), ExchangeError> {
        if source.account_token_position > 0 {
            let token = tokens(subject.as_bytes()).nth(source.account_token_position - 1);
            if token != Some(b"*") {
                return Err(ExchangeError::InvalidSubject);
            }
        }
        self.position = source.account_token_position;
        self.token_required |= source.token_required;
        self.approved.extend(source.accounts.iter().cloned());
        self.revocations.clone_from(&source.revocations);
        Ok(())
    }

    /// The admission, or nothing. `exact` is whether the import names the export's own subject,
    /// in which case no token of it can be an account's name.
    fn admits(&self, importer: &Importer<'_>, subject: &str, exact: bool) -> Option<Admission> {
        if self.position > 0 {
            let token = tokens(subject.as_bytes()).nth(self.position - 1).filter(|_| !exact);
            return (token == Some(importer.name.as_bytes())).then_some(Admission::default());
        }
        if self.token_required {
            return (importer.activation)(&self.revocations);
        }
        (self.approved.is_empty() || self.approved.contains(importer.name)).then_some(Admission::default())
    }
}

/// Looks for an export that covers `subject` and admits the importer. Only if none is named exactly so are
/// wider ones asked.
fn admitted<'a, E>(
    exports: &'a [E],
    parts: impl Fn(&'a E) -> (&'a str, &'a Access),
    subject: &str,
    importer: &Importer<'_>,
) -> Option<Admission> {
    if !is_valid(subject.as_bytes()) {
        return None;
    }
    if let Some(export) = exports.iter().find(|export| parts(export).0 == subject) {
        return parts(export).1.admits(importer, subject, true);
    }
    exports
        .iter()
        .map(parts)
        .filter(|(text, _)| is_subset(subject.as_bytes(), text.as_bytes()))
        .find_map(|(_, access)| access.admits(importer, subject, false))
}

impl Exports {
    /// Adds a stream; one with the same subject is extended.
    pub(crate) fn add_stream(&mut self, source: &StreamExportSource) -> Result<(), ExchangeError> {
        if !is_valid(source.subject.as_bytes()) {
            return Err(ExchangeError::InvalidSubject);
        }
        let mut access = match self.streams.iter().position(|export| *export.subject == *source.subject) {
            Some(at) => self.streams.remove(at).access,
            None => Access::default(),
        };
        access.add(&source.access, &source.subject)?;
        self.streams.push(StreamExport { subject: source.subject.as_str().into(), access });
        Ok(())
    }

    /// Adds a service; one with the same subject is extended.
    pub(crate) fn add_service(&mut self, source: &ServiceExportSource) -> Result<(), ExchangeError> {
        if !is_valid(source.subject.as_bytes()) {
            return Err(ExchangeError::InvalidSubject);
        }
        let mut access = match self.services.iter().position(|export| *export.subject == *source.subject) {
            Some(at) => self.services.remove(at).access,
            None => Access::default(),
        };
        access.add(&source.access, &source.subject)?;
        if let Some(latency) = &source.latency {
            self.check_latency(latency, source)?;
        }
        self.services.push(ServiceExport {
            subject: source.subject.as_str().into(),
            response_type: source.response_type,
            response_threshold_nanos: match source.response_threshold_nanos {
                0 => RESPONSE_THRESHOLD_NANOS,
                nanos => nanos,
            },
            latency: source.latency.clone(),
            allow_trace: source.allow_trace,
            access,
        });
        Ok(())
    }

    fn check_latency(&self, latency: &Latency, source: &ServiceExportSource) -> Result<(), ExchangeError> {
        if latency.sampling_percent > 100 {
            return Err(ExchangeError::BadSampling);
        }
        let results = latency.results.as_bytes();
        // Reports that are requests to an exported service would be measured in turn.
        let loops = self.service(&latency.results).is_some() || is_subset(results, source.subject.as_bytes());
        if !is_valid_publish(results) || loops {
            return Err(ExchangeError::BadResults);
        }
        if source.response_type != ResponseType::Singleton {
            return Err(ExchangeError::BadServiceType);
        }
        Ok(())
    }

    /// The service export for `subject`: by name, or else the first that covers it.
    pub fn service(&self, subject: &str) -> Option<&ServiceExport> {
        let covers = |export: &&ServiceExport| is_subset(subject.as_bytes(), export.subject.as_bytes());
        self.services
            .iter()
            .find(|export| *export.subject == *subject)
            .or_else(|| self.services.iter().find(covers))
    }

    pub(crate) fn admits_stream(&self, subject: &str, importer: &Importer<'_>) -> Option<Admission> {
        admitted(&self.streams, |export| (&*export.subject, &export.access), subject, importer)
    }

    pub(crate) fn admits_service(&self, subject: &str, importer: &Importer<'_>) -> Option<Admission> {
        admitted(&self.services, |export| (&*export.subject, &export.access), subject, importer)
    }

    fn has_stream_over(&self, subject: &str) -> bool {
        self.streams.iter().any(|export| is_subset(subject.as_bytes(), export.subject.as_bytes()))
    }
}

impl StreamExport {
    /// Names of the accounts that may import it; none: every account, or those with a token.
    pub fn approved_accounts(&self) -> impl Iterator<Item = &str> {
        self.access.approved.iter().map(String::as_str)
    }

    /// Whether importers need an activation token.
    pub fn is_token_required(&self) -> bool {
        self.access.token_required
    }
}

impl ServiceExport {
    /// Names of the accounts that may import it; none: every account, or those with a token.
    pub fn approved_accounts(&self) -> impl Iterator<Item = &str> {
        self.access.approved.iter().map(String::as_str)
    }

    /// Whether importers need an activation token.
    pub fn is_token_required(&self) -> bool {
        self.access.token_required
    }
}

impl StreamImport {
    /// Compiles an import; authorisation and cycles are the caller's to check.
    pub(crate) fn new(
        source: &StreamImportSource,
        account: AccountId,
    ) -> Result<StreamImport, ExchangeError> {
        let from = source.subject.as_str();
        let local = local_subject(source)?;
        let (mut to, mut inward, mut outward) = (local.clone(), Rewrite::Fixed(local.as_str().into()), None);
        if !is_literal(from.as_bytes()) {
            if local == from {
                inward = Rewrite::Same;
            } else {
                let destination = transform::tokenize(&local);
                let rewrite = reversible(from, &destination)?;
                to = transform::untokenize(&local);
                outward = rewrite.reverse().map(Box::new);
                inward = Rewrite::Transform(Box::new(rewrite));
            }
        }
        let (from, to) = (from.into(), to.into());
        let StreamImportSource { allow_trace, .. } = *source;
        Ok(StreamImport { account, from, to, allow_trace, expires_seconds: None, inward, outward })
    }

    /// Appends the subject under which a message on `subject` of the exporting account arrives here.
    pub fn local(&self, subject: &[u8], out: &mut Vec<u8>) {
        rewrite(&self.inward, subject, out);
    }

    /// What to subscribe to in the exporting account so that a subscription here to `filter` gets what the
    /// import offers of it; `None` if they have nothing in common.
    pub fn remote_filter(&self, filter: &[u8]) -> Option<Vec<u8>> {
        let to = self.to.as_bytes();
        if filter == to || is_subset(to, filter) {
            return Some(self.from.as_bytes().to_vec());
        }
        let common = match is_subset(filter, to) {
            true => filter.to_vec(),
            false => intersection(filter, to)?,
        };
        match (&self.inward, &self.outward) {
            (Rewrite::Same, _) => Some(common),
            (Rewrite::Fixed(_), _) => Some(self.from.as_bytes().to_vec()),
            (Rewrite::Transform(_), Some(outward)) => {
                let mut out = Vec::new();
                outward.apply(&common, &mut || 0, &mut out).then_some(out)
            }
            (Rewrite::Transform(_), None) => None,
        }
    }
}

/// Prefix or `to` of a stream import as the local subject, wildcards of the remote one included.
pub(crate) fn local_subject(source: &StreamImportSource) -> Result<String, ExchangeError> {
    if !source.prefix.is_empty() {
        if !is_literal(source.prefix.as_bytes()) {
            return Err(ExchangeError::BadPrefix);
        }
        let dot = if source.prefix.ends_with('.') { "" } else { "." };
        return Ok(format!("{}{dot}{}", source.prefix, source.subject));
    }
    Ok(if source.to.is_empty() { source.subject.clone() } else { source.to.clone() })
}

impl ServiceImport {
    /// Compiles an import; authorisation and cycles are the caller's to check. `export` is the one that
    /// covers it, if there is one.
    pub(crate) fn new(
        source: &ServiceImportSource,
        account: AccountId,
        export: Option<&ServiceExport>,
    ) -> Result<ServiceImport, ExchangeError> {
        let (mut to, mut from) = (source.subject.clone(), local_service(source).to_owned());
        let mut outward = Rewrite::Fixed(to.as_str().into());
        if !is_literal(to.as_bytes()) {
            if to == from {
                outward = Rewrite::Same;
            } else {
                // Compiled from there to here, where the placeholders are, and then turned around.
                to = transform::untokenize(&to);
                let destination = transform::tokenize(&from);
                let inward = reversible(&to, &destination)?;
                from = transform::untokenize(&from);
                let reverse = inward.reverse().ok_or(ExchangeError::InvalidSubject)?;
                outward = Rewrite::Transform(Box::new(reverse));
            }
        }
        Ok(ServiceImport {
            account,
            from: from.into(),
            to: to.into(),
            share: source.share,
            response_type: export.map_or(ResponseType::Singleton, |export| export.response_type),
            response_threshold_nanos: export
                .map_or(RESPONSE_THRESHOLD_NANOS, |export| export.response_threshold_nanos),
            latency: export.and_then(|export| export.latency.clone()),
            allow_trace: export.is_some_and(|export| export.allow_trace),
            expires_seconds: None,
            outward,
        })
    }

    /// Appends the subject in the exporting account of a request made here to `subject`.
    pub fn remote(&self, subject: &[u8], out: &mut Vec<u8>) {
        rewrite(&self.outward, subject, out);
    }
}

/// The local subject of a service import, as written.
pub(crate) fn local_service(source: &ServiceImportSource) -> &str {
    if source.to.is_empty() { &source.subject } else { &source.to }
}

fn reversible(from: &str, to: &str) -> Result<Transform, ExchangeError> {
    Transform::new_reversible(from, to).map_err(|reason| ExchangeError::Transform {
        from: from.into(),
        to: to.into(),
        reason,
    })
}

fn rewrite(rewrite: &Rewrite, subject: &[u8], out: &mut Vec<u8>) {
    match rewrite {
        Rewrite::Same => out.extend_from_slice(subject),
        Rewrite::Fixed(text) => out.extend_from_slice(text.as_bytes()),
        Rewrite::Transform(transform) => {
            transform.apply(subject, &mut || 0, out);
        }
    }
}

/// The filter of what both filters match; `None` if that is nothing.
fn intersection(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let (mut left, mut right) = (tokens(a), tokens(b));
    let mut out: Vec<u8> = Vec::new();
    loop {
        let (left_rest, right_rest) = (left.rest(), right.rest());
        let token = match (left.next(), right.next()) {
            (None, None) => return (!out.is_empty()).then_some(out),
            (Some(b">"), Some(_)) => right_rest?,
            (Some(_), Some(b">")) => left_rest?,
            (Some(b"*"), Some(token)) | (Some(token), Some(b"*")) => token,
            (Some(x), Some(y)) if x == y => x,
            _ => return None,
        };
        if !out.is_empty() {
            out.push(b'.');
        }
        out.extend_from_slice(token);
        if left_rest == Some(b">") || right_rest == Some(b">") {
            return Some(out);
        }
    }
}

/// More accounts in a row than this are not searched for cycles.
const CYCLE_DEPTH_MAX: usize = 1024;

/// The exports and imports of all accounts while they are being compiled, by account index.
pub(crate) struct Network<'a> {
    pub accounts: &'a [(Exports, Imports)],
}

impl Network<'_> {
    /// Refuses a service import of `importer` from `exporter` under the local subject `from` if requests could
    /// come back to an account they were in.
    pub fn check_service(
        &self,
        importer: AccountId,
        exporter: AccountId,
        from: &str,
    ) -> Result<(), ExchangeError> {
        self.services_from(exporter, from, &mut BTreeSet::from([importer]))
    }

    fn services_from(
        &self,
        at: AccountId,
        from: &str,
        visited: &mut BTreeSet<AccountId>,
    ) -> Result<(), ExchangeError> {
        if visited.len() >= CYCLE_DEPTH_MAX {
            return Err(ExchangeError::CycleDepth);
        }
        let Some((_, imports)) = self.accounts.get(at.index()) else { return Ok(()) };
        for import in &imports.services {
            if collide(from.as_bytes(), import.to.as_bytes()) {
                if visited.contains(&import.account) {
                    return Err(ExchangeError::Cycle);
                }
                visited.insert(at);
                let narrower = is_subset(import.from.as_bytes(), from.as_bytes());
                let from = if narrower { &import.from } else { from };
                self.services_from(import.account, from, visited)?;
            }
        }
        Ok(())
    }

    /// Refuses a stream import of `importer` from `exporter` if messages could come back to an account they
    /// were in.
    pub fn check_stream(
        &self,
        importer: AccountId,
        exporter: AccountId,
        to: &str,
    ) -> Result<(), ExchangeError> {
        self.streams_from(exporter, to, &mut BTreeSet::from([importer]))
    }

    fn streams_from(
        &self,
        at: AccountId,
        to: &str,
        visited: &mut BTreeSet<AccountId>,
    ) -> Result<(), ExchangeError> {
        if visited.len() >= CYCLE_DEPTH_MAX {
            return Err(ExchangeError::CycleDepth);
        }
        let Some((exports, imports)) = self.accounts.get(at.index()) else { return Ok(()) };
        if !exports.has_stream_over(to) {
            return Ok(());
        }
        for import in &imports.streams {
            if collide(to.as_bytes(), import.to.as_bytes()) {
                if visited.contains(&import.account) {
                    return Err(ExchangeError::Cycle);
                }
                visited.insert(at);
                let narrower = is_subset(import.to.as_bytes(), to.as_bytes());
                let to = if narrower { &import.to } else { to };
                self.streams_from(import.account, to, visited)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(subject: &str, to: &str) -> StreamImport {
        let source = StreamImportSource { subject: subject.into(), to: to.into(), ..Default::default() };
        StreamImport::new(&source, AccountId::from_index(0)).unwrap()
    }

    #[test]
    fn a_subscription_finds_its_part_of_an_imported_stream() {
        for (subject, to, filter, expected) in [
            ("a.*", "", "a.*", Some("a.*")),
            ("a.*", "", "a.b", Some("a.b")),
            ("a.*", "", ">", Some("a.*")),
            ("a.*", "", "*.b", Some("a.b")),
            ("a.*", "", "b.*", None),
            ("a.*.c", "", "a.b.>", Some("a.b.c")),
            ("a.>", "", "*.b.>", Some("a.b.>")),
            ("a.*", "x.$1", "x.b", Some("a.b")),
            ("a.*", "x.$1", "x.*", Some("a.*")),
            ("a.*", "x.$1", "*.b", Some("a.b")),
            ("a.*", "x.$1", "a.b", None),
            ("a.*.*", "x.$2.$1", "x.1.2", Some("a.2.1")),
            ("a.*.*", "x.$2.$1", "x.1.*", Some("a.*.1")),
            ("a.>", "x.>", "x.1.>", Some("a.1.>")),
            ("a.b", "x", "x", Some("a.b")),
            ("a.b", "x", "*", Some("a.b")),
            ("a.b", "x", "a.b", None),
        ] {
            let found = stream(subject, to).remote_filter(filter.as_bytes());
            let found = found.map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(found.as_deref(), expected, "{subject} to {to:?}: {filter}");
        }
    }

    #[test]
    fn messages_arrive_under_the_local_subject() {
        for (subject, to, message, expected) in [
            ("a.*", "", "a.b", "a.b"),
            ("a.*.*", "x.$2.$1", "a.1.2", "x.2.1"),
            ("a.>", "x.>", "a.1.2", "x.1.2"),
            ("a.b", "x", "a.b", "x"),
        ] {
            let mut out = vec![];
            stream(subject, to).local(message.as_bytes(), &mut out);
            assert_eq!(out, expected.as_bytes(), "{subject} to {to}");
        }
        let source = StreamImportSource { subject: "a.>".into(), prefix: "pre".into(), ..Default::default() };
        let mut out = vec![];
        StreamImport::new(&source, AccountId::from_index(0)).unwrap().local(b"a.b.c", &mut out);
        assert_eq!(out, b"pre.a.b.c");
        let source = StreamImportSource { prefix: "p.*".into(), ..source };
        let refused = StreamImport::new(&source, AccountId::from_index(0)).unwrap_err();
        assert_eq!(refused, ExchangeError::BadPrefix);
    }

    #[test]
    fn requests_arrive_under_the_remote_subject() {
        for (subject, to, request, expected) in [
            ("svc", "", "svc", "svc"),
            ("svc", "local", "local", "svc"),
            ("svc.*", "", "svc.a", "svc.a"),
            ("svc.*.*", "l.$2.$1", "l.1.2", "svc.2.1"),
            ("svc.>", "l.>", "l.1.2", "svc.1.2"),
        ] {
            let source = ServiceImportSource { subject: subject.into(), to: to.into(), ..Default::default() };
            let import = ServiceImport::new(&source, AccountId::from_index(0), None).unwrap();
            let mut out = vec![];
            import.remote(request.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{subject} to {to}");
        }
    }

    #[test]
    fn access_by_name_position_and_token() {
        let export = |access: AccessSource, subject: &str| {
            let mut exports = Exports::default();
            exports.add_stream(&StreamExportSource { subject: subject.into(), access }).map(|()| exports)
        };
        let admits = |exports: &Exports, name: &str, subject: &str, token: Option<Admission>| {
            exports.admits_stream(subject, &Importer { name, activation: &|_| token }).is_some()
        };
        let public = export(AccessSource::default(), "a.>").unwrap();
        assert!(admits(&public, "X", "a.b", None) && !admits(&public, "X", "b", None));
        assert!(!admits(&public, "X", "a..b", None) && !admits(&public, "X", ">", None));
        let named = export(AccessSource { accounts: vec!["X".into()], ..Default::default() }, "a.>").unwrap();
        assert!(admits(&named, "X", "a.>", None) && !admits(&named, "Y", "a.>", None));
        let position = AccessSource { account_token_position: 2, ..Default::default() };
        let placed = export(position.clone(), "a.*.>").unwrap();
        assert!(admits(&placed, "X", "a.X.>", None));
        assert!(!admits(&placed, "Y", "a.X.>", None) && !admits(&placed, "*", "a.*.>", None));
        assert_eq!(export(position, "a.b").unwrap_err(), ExchangeError::InvalidSubject);
        let token = export(AccessSource { token_required: true, ..Default::default() }, "a.>").unwrap();
        assert!(admits(&token, "X", "a.>", Some(Admission::default())) && !admits(&token, "X", "a.>", None));
    }
}
