//! Imports and exports between accounts. Owns their keys and that each import meets an export that allows
//! it; forwards nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::accounts::{self, Account};
use crate::auth::Place;
use crate::grammar::{Map, Node, Value};
use crate::reader::{Field, Reader, assign};
use crate::tree::Tree;

/// Something taken from another account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The other account's name.
    pub account: String,
    /// The subject in the other account.
    pub subject: String,
    /// Stream or service.
    pub kind: ImportKind,
    /// Where it was written, for messages.
    pub position: Place,
}

/// What is imported, and under which subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportKind {
    /// Messages.
    Stream {
        /// Put before the subject here. Not beside `to`.
        prefix: Option<String>,
        /// The subject here; `None`: the same.
        to: Option<String>,
        /// Message traces cross over.
        allow_trace: bool,
    },
    /// Requests.
    Service {
        /// The subject here; `None`: the same.
        to: Option<String>,
        /// The requester's details are shared in latency reports.
        share: bool,
    },
}

/// Something offered to other accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The subject.
    pub subject: String,
    /// Stream or service.
    pub kind: ExportKind,
    /// Accounts it is offered to; empty: all.
    pub accounts: Vec<String>,
    /// Token (from 1) of the subject that must be the importing account's name; 0: none.
    pub account_token_position: u32,
    /// Where it was written, for messages.
    pub position: Place,
}

/// What is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportKind {
    /// Messages.
    Stream,
    /// Requests.
    Service {
        /// How many answers a request has.
        response_type: ResponseType,
        /// How long answers may take; `None`: two minutes.
        response_threshold: Option<Duration>,
        /// Latency is measured and told.
        latency: Option<Latency>,
        /// Message traces cross over.
        allow_trace: bool,
    },
}

/// How many answers a request has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseType {
    /// One.
    #[default]
    Singleton,
    /// Many, each a message of its own.
    Stream,
    /// Many, one answer in pieces.
    Chunked,
}

impl ResponseType {
    /// The word for it in nats.conf.
    pub fn name(self) -> &'static str {
        match self {
            ResponseType::Singleton => "singleton",
            ResponseType::Stream => "stream",
            ResponseType::Chunked => "chunked",
        }
    }
}

/// How a service's latency is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Percent of the requests measured, 1 to 100; 0: those whose headers ask for it.
    pub sampling: u8,
    /// Where measurements are published.
    pub subject: String,
}

const EXPORT_KEYS: &[&str] = &[
    "stream",
    "service",
    "response",
    "response_type",
    "threshold",
    "response_threshold",
    "response_max_time",
    "response_time",
    "accounts",
    "latency",
    "account_token_position",
    "allow_trace",
];

const IMPORT_KEYS: &[&str] = &["stream", "service", "prefix", "to", "share", "allow_trace"];

/// Each entry of an array of blocks.
fn blocks<'a>(field: &Field<'a>, what: &str, reader: &mut Reader) -> Option<Vec<(&'a Node, &'a Map)>> {
    let mut blocks = Vec::new();
    for node in field.array(reader)? {
        match &node.value {
            Value::Map(map) => blocks.push((node, map)),
            other => reader.problem(
                &node.position,
                format!("{what} Items should be a map with type entry, found {}", other.kind()),
            ),
        }
    }
    Some(blocks)
}

/// Reads a list of exports.
pub(crate) fn exports(field: &Field<'_>, reader: &mut Reader) -> Option<Vec<Export>> {
    let blocks = blocks(field, "Export", reader)?;
    Some(blocks.into_iter().filter_map(|(node, map)| export(node, map, reader)).collect())
}

fn export(node: &Node, map: &Map, reader: &mut Reader) -> Option<Export> {
    let (mut stream, mut service) = (None, None);
    let (mut response, mut threshold, mut latency, mut allow_trace) = (None, None, None, None);
    let (mut accounts, mut position) = (Vec::new(), 0);
    // Keys that only a service may have.
    let mut for_services = Vec::new();
    let fields = reader.fields(map);
    for field in &fields {
        match field.key.as_str() {
            "stream" => stream = field.string(reader),
            "service" => service = field.string(reader),
            "response" | "response_type" => {
                if response.is_some() {
                    field.problem(reader, "Duplicate response type definition");
                }
                response = response_type(field, reader);
                for_services.push((field, "response"));
            }
            "threshold" | "response_threshold" | "response_max_time" | "response_time" => {
                if threshold.is_some() {
                    field.problem(reader, "Duplicate response threshold detected");
                }
                threshold = accounts::threshold(field, reader);
                for_services.push((field, "response"));
            }
            "accounts" => {
                field.array(reader)?;
                assign(&mut accounts, field.strings(reader));
            }
            "latency" => {
                latency = read_latency(field, reader);
                for_services.push((field, "latency"));
            }
            "account_token_position" => assign(&mut position, field.within(reader, 0, i64::from(u16::MAX))),
            "allow_trace" => {
                allow_trace = field.boolean(reader);
                for_services.push((field, "allow_trace"));
            }
            _ => reader.unknown(field, EXPORT_KEYS),
        }
    }
    let (subject, kind) = match (stream, service) {
        (Some(stream), Some(_)) => {
            reader.problem(&node.position, format!("Detected stream {stream:?} but already saw a service"));
            return None;
        }
        (None, None) => {
            reader.problem(&node.position, "an export needs a \"stream\" or a \"service\"");
            return None;
        }
        (Some(stream), None) => {
            for (field, what) in for_services {
                field.problem(reader, format!("Detected {what} directive on non-service"));
            }
            (stream, ExportKind::Stream)
        }
        (None, Some(service)) => {
            let kind = ExportKind::Service {
                response_type: response.unwrap_or_default(),
                response_threshold: threshold,
                latency,
                allow_trace: allow_trace.unwrap_or(false),
            };
            (service, kind)
        }
    };
    if !subject::is_valid(subject.as_bytes()) {
        reader.problem(&node.position, format!("export of {subject:?}: not a valid subject"));
    }
    let place = Place(Some(node.position.clone()));
    Some(Export { subject, kind, accounts, account_token_position: position, position: place })
}

fn response_type(field: &Field<'_>, reader: &mut Reader) -> Option<ResponseType> {
    let text = field.string(reader)?;
    match text.to_lowercase().as_str() {
        "single" | "singleton" => Some(ResponseType::Singleton),
        "stream" => Some(ResponseType::Stream),
        "chunk" | "chunked" => Some(ResponseType::Chunked),
        _ => {
            field.problem(
                reader,
                format!("Unknown response type: {text:?}; use singleton, stream or chunked"),
            );
            None
        }
    }
}

fn read_latency(field: &Field<'_>, reader: &mut Reader) -> Option<Latency> {
    let none = Map::default();
    let (mut sampling, mut subject) = (100, None);
    let map = match &field.node.value {
        Value::String(text) => {
            subject = Some(text.clone());
            &none
        }
        Value::Map(map) => map,
        other => {
            field.problem(
                reader,
                format!("Expected latency entry to be a map/struct or string, found {}", other.kind()),
            );
            return None;
        }
    };
    for part in reader.fields(map) {
        match part.key.as_str() {
            "sampling" => match &part.node.value {
                Value::String(text) if text.trim().eq_ignore_ascii_case("headers") => sampling = 0,
                _ => assign(&mut sampling, accounts::percent(&part, 1, "bad sampling percentage", reader)),
            },
            "subject" => subject = part.string(reader),
            _ => reader.unknown(&part, &["sampling", "subject"]),
        }
    }
    let Some(subject) = subject else {
        field.problem(reader, "Latency subject required, but missing");
        return None;
    };
    if !subject::is_valid_publish(subject.as_bytes()) {
        field.problem(reader, format!("Latency subject {subject:?} is not a valid subject to publish to"));
    }
    Some(Latency { sampling, subject })
}

/// Reads a list of imports.
pub(crate) fn imports(field: &Field<'_>, reader: &mut Reader) -> Option<Vec<Import>> {
    let blocks = blocks(field, "Import", reader)?;
    Some(blocks.into_iter().filter_map(|(node, map)| import(node, map, reader)).collect())
}

fn import(node: &Node, map: &Map, reader: &mut Reader) -> Option<Import> {
    let (mut stream, mut service) = (None, None);
    let (mut prefix, mut to, mut share, mut allow_trace) = (None, None, false, None);
    let fields = reader.fields(map);
    for field in &fields {
        match field.key.as_str() {
            "stream" => stream = Some(source(field, reader)?),
            "service" => service = Some(source(field, reader)?),
            "prefix" => prefix = field.optional(reader).flatten(),
            "to" => to = field.optional(reader).flatten(),
            "share" => assign(&mut share, field.boolean(reader)),
            "allow_trace" => allow_trace = Some((field, field.boolean(reader)?)),
            _ => reader.unknown(field, IMPORT_KEYS),
        }
    }
    let (source, kind) = match (stream, service) {
        (Some(_), Some(_)) => {
            reader.problem(&node.position, "Detected stream but already saw a service");
            return None;
        }
        (None, None) => {
            reader.problem(&node.position, "an import needs a \"stream\" or a \"service\"");
            return None;
        }
        (Some(source), None) => {
            if prefix.is_some() && to.is_some() {
                reader.problem(&node.position, "Stream import can not have a 'prefix' and a 'to' property");
            }
            if prefix
                .as_ref()
                .is_some_and(|prefix| !subject::is_literal(prefix.trim_end_matches('.').as_bytes()))
            {
                reader.problem(&node.position, "stream import prefix can not contain wildcard tokens");
            }
            let allow_trace = allow_trace.is_some_and(|(_, allowed)| allowed);
            (source, ImportKind::Stream { prefix, to, allow_trace })
        }
        (None, Some(source)) => {
            if let Some((field, _)) = allow_trace {
                field.problem(reader, "Detected allow_trace directive on a non-stream");
            }
            (source, ImportKind::Service { to, share })
        }
    };
    let (account, subject) = source;
    Some(Import { account, subject, kind, position: Place(Some(node.position.clone())) })
}

/// `{account: …, subject: …}`
fn source(field: &Field<'_>, reader: &mut Reader) -> Option<(String, String)> {
    let map = field.map(reader)?;
    let (mut account, mut subject) = (String::new(), String::new());
    for part in reader.fields(map) {
        match part.key.as_str() {
            "account" => assign(&mut account, part.string(reader)),
            "subject" => assign(&mut subject, part.string(reader)),
            _ => reader.unknown(&part, &["account", "subject"]),
        }
    }
    if account.is_empty() || subject.is_empty() {
        field.problem(reader, "Expect an account name and a subject");
        return None;
    }
    Some((account, subject))
}

/// What imports and exports say of other accounts must be so.
pub(crate) fn check(accounts: &[Account], reader: &mut Reader) {
    let by_name: BTreeMap<&str, &Account> = accounts.iter().map(|a| (a.name.as_str(), a)).collect();
    for account in accounts {
        for export in &account.exports {
            let kind = export.kind.name();
            for other in &export.accounts {
                if !by_name.contains_key(other.as_str()) {
                    tell(
                        &export.position,
                        format!("{other:?} account not defined for {kind} export"),
                        reader,
                    );
                }
            }
        }
        let mut services: Vec<(&str, &str)> = Vec::new();
        for import in &account.imports {
            check_import(account, import, &by_name, reader);
            if let ImportKind::Service { to, .. } = &import.kind {
                let here = to.as_deref().unwrap_or(&import.subject);
                if services.contains(&(here, &import.account)) {
                    let message = format!(
                        "Duplicate service import subject {here:?}, previously used in import for account {:?}",
                        import.account
                    );
                    tell(&import.position, message, reader);
                }
                services.push((here, &import.account));
            }
        }
    }
}

fn tell(place: &Place, message: String, reader: &mut Reader) {
    reader.problems.push(crate::error::Problem { position: place.0.clone(), message });
}

fn check_import(account: &Account, import: &Import, by_name: &BTreeMap<&str, &Account>, reader: &mut Reader) {
    let kind = match import.kind {
        ImportKind::Stream { .. } => "stream",
        ImportKind::Service { .. } => "service",
    };
    let Some(exporter) = by_name.get(import.account.as_str()) else {
        tell(&import.position, format!("{:?} account not defined for {kind} import", import.account), reader);
        return;
    };
    let allowed = exporter.exports.iter().any(|export| {
        export.kind.name() == kind
            && (export.accounts.is_empty() || export.accounts.contains(&account.name))
            && (subject::is_subset(import.subject.as_bytes(), export.subject.as_bytes()))
    });
    if !allowed {
        let message = format!(
            "Error adding {kind} import {:?}: account {:?} exports no {kind} on it to account {:?}",
            import.subject, import.account, account.name
        );
        tell(&import.position, message, reader);
    }
}

impl ExportKind {
    fn name(&self) -> &'static str {
        match self {
            ExportKind::Stream => "stream",
            ExportKind::Service { .. } => "service",
        }
    }
}

impl Import {
    pub(crate) fn tree(&self) -> Tree {
        let mut source = Tree::default();
        source.string("account", &self.account);
        source.string("subject", &self.subject);
        let mut tree = Tree::default();
        match &self.kind {
            ImportKind::Stream { prefix, to, allow_trace } => {
                tree.tree("stream", source);
                tree.optional("prefix", prefix);
                tree.optional("to", to);
                tree.boolean("allow_trace", *allow_trace, false);
            }
            ImportKind::Service { to, share } => {
                tree.tree("service", source);
                tree.optional("to", to);
                tree.boolean("share", *share, false);
            }
        }
        tree
    }
}

impl Export {
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        tree.string(self.kind.name(), &self.subject);
        if let ExportKind::Service { response_type, response_threshold, latency, allow_trace } = &self.kind {
            if *response_type != ResponseType::Singleton {
                tree.string("response_type", response_type.name());
            }
            tree.optional_duration("response_threshold", *response_threshold);
            if let Some(latency) = latency {
                let mut inner = Tree::default();
                match latency.sampling {
                    0 => inner.string("sampling", "headers"),
                    percent => inner.integer("sampling", percent, 100),
                }
                inner.string("subject", &latency.subject);
                tree.tree("latency", inner);
            }
            tree.boolean("allow_trace", *allow_trace, false);
        }
        tree.strings("accounts", &self.accounts);
        tree.integer("account_token_position", self.account_token_position, 0);
        tree
    }
}
