//! Tools that read nats-server's monitoring find the same fields, in the same order and of the same kinds, here.

mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fake::{Fake, at, bare, client, cluster};
use monitor::events::{AccountConnections, Connect, Disconnect, ServerInfo};
use monitor::request::{Call, UserInfo, answer, envelope};
use monitor::source::CloseReason;
use monitor::{Source, json, respond};
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

/// Walks JSON text in its own order and notes each new path with its kind.
struct Walk<'a> {
    path: String,
    seen: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn note(&mut self, kind: &str) {
        let path = if self.path.is_empty() { "." } else { &self.path };
        let line = format!("{path} {kind}");
        if !self.seen.contains(&line) {
            self.seen.push(line);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(mut self, _: bool) -> Result<(), E> {
        self.note("bool");
        Ok(())
    }

    fn visit_i64<E>(mut self, _: i64) -> Result<(), E> {
        self.note("number");
        Ok(())
    }

    fn visit_u64<E>(mut self, _: u64) -> Result<(), E> {
        self.note("number");
        Ok(())
    }

    fn visit_f64<E>(mut self, _: f64) -> Result<(), E> {
        self.note("number");
        Ok(())
    }

    fn visit_unit<E>(mut self) -> Result<(), E> {
        self.note("null");
        Ok(())
    }

    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        self.note(if text.parse::<jiff::Timestamp>().is_ok() { "time" } else { "string" });
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.note("array");
        let path = format!("{}[]", self.path);
        while items.next_element_seed(Walk { path: path.clone(), seen: self.seen })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<(), A::Error> {
        self.note("object");
        while let Some(name) = fields.next_key::<String>()? {
            fields.next_value_seed(Walk { path: format!("{}.{name}", self.path), seen: self.seen })?;
        }
        Ok(())
    }
}

fn shape(text: &[u8]) -> Vec<String> {
    let mut seen = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    Walk { path: String::new(), seen: &mut seen }.deserialize(&mut deserializer).expect("documents are JSON");
    deserializer.end().expect("nothing follows a document");
    seen
}

/// The shapes taken from nats-server, by name.
fn recorded() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut shapes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut name = "";
    for line in include_str!("shapes.txt").lines().filter(|line| !line.starts_with(';')) {
        match line.strip_prefix("# ") {
            Some(heading) => name = heading,
            None => shapes.entry(name).or_default().push(line),
        }
    }
    shapes
}

#[track_caller]
fn same(name: &str, text: &[u8]) {
    let recorded = recorded();
    let expected = recorded.get(name).unwrap_or_else(|| panic!("no shape {name}"));
    let found = shape(text);
    let missing: Vec<_> = expected.iter().filter(|line| !found.iter().any(|other| other == *line)).collect();
    let extra: Vec<_> = found.iter().filter(|line| !expected.contains(&line.as_str())).collect();
    assert!(missing.is_empty() && extra.is_empty(), "{name}: missing {missing:?}, extra {extra:?}");
    assert_eq!(found, *expected, "{name}: the order differs");
}

fn get(source: &Fake, target: &str) -> Vec<u8> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    respond(source, "", path, query).body
}

fn ask(source: &Fake, subject: &str, payload: &str) -> Vec<u8> {
    let call = Call::parse(subject, &source.identity.id).unwrap_or_else(|| panic!("{subject} asks nothing"));
    answer(source, call, payload.as_bytes(), 1).unwrap_or_else(|| panic!("{subject} was not answered"))
}

#[test]
fn http_documents_of_a_server_without_configuration() {
    let source = bare();
    for name in
        ["connz", "routez", "subsz", "accountz", "accstatz", "gatewayz", "leafz", "jsz", "varz", "healthz"]
    {
        same(name, &get(&source, &format!("/{name}")));
    }
}

#[test]
fn http_documents_of_a_cluster() {
    let source = cluster();
    for (name, target) in [
        ("cluster-connz-auth-detail", "/connz?subs=detail&auth=1"),
        ("cluster-connz-subs", "/connz?subs=1"),
        ("cluster-connz-closed", "/connz?state=closed&auth=1&subs=detail"),
        ("connz-unknown-account", "/connz?acc=NN"),
        ("cluster-routez-detail", "/routez?subs=detail"),
        ("cluster-accountz-a", "/accountz?acc=A"),
        ("cluster-accountz-b", "/accountz?acc=B"),
        ("cluster-accountz-sys", "/accountz?acc=SYS"),
        ("cluster-accstatz", "/accstatz?unused=1"),
        ("cluster-subsz", "/subsz?subs=1&acc=A"),
        ("cluster-ipqueuesz", "/ipqueuesz?all=1"),
        ("healthz-bad-request", "/healthz?details=1&consumer=x"),
    ] {
        same(name, &get(&source, target));
    }
}

#[test]
fn varz_of_a_cluster() {
    let source = cluster();
    for path in ["/accountz", "/accstatz", "/connz", "/healthz", "/routez", "/subsz", "/livez", "/metrics"] {
        get(&source, path);
    }
    same("cluster-varz", &get(&source, "/varz"));
}

#[test]
fn a_route_shows_the_permissions_that_its_other_end_announced() {
    let mut source = cluster();
    let announced = (source.routes.import.take(), source.routes.export.take());
    for route in &mut source.routes.routes {
        (route.import, route.export) = announced.clone();
    }
    same("cluster-routez", &get(&source, "/routez"));
}

#[test]
fn answers_in_the_system_account() {
    let source = cluster();
    let server = |word: &str, payload: &str| ask(&source, &format!("$SYS.REQ.SERVER.NONE.{word}"), payload);
    for word in ["IDZ", "STATSZ", "HEALTHZ", "PROFILEZ", "RAFTZ", "JSZ", "GATEWAYZ", "LEAFZ", "ACCOUNTZ"] {
        same(&format!("sys-{}", word.to_lowercase()), &server(word, ""));
    }
    same("sys-varz-refused", &server("VARZ", "nonsense"));
    same("sys-connz-failed", &server("CONNZ", r#"{"sort":"zz"}"#));
    same("sys-account-statz", &ask(&source, "$SYS.REQ.ACCOUNT.A.STATZ", ""));
    same("sys-account-info-failed", &ask(&source, "$SYS.REQ.ACCOUNT.NN.INFO", ""));
}

#[test]
fn answers_to_actions_in_the_system_account() {
    let source = cluster();
    same("sys-reload", &envelope::<()>(&source, 1, Ok(None)));
    let failure = monitor::request::ApiError::failed("no such client or leafnode id");
    same("sys-kick-refused", &envelope::<()>(&source, 1, Err(failure)));
    let user = UserInfo {
        user: "s".into(),
        account: "SYS".into(),
        account_name: "SYS".into(),
        ..UserInfo::default()
    };
    same("sys-user-info", &envelope(&source, 1, Ok(Some(user))));
}

#[test]
fn events_in_the_system_account() {
    let source = cluster();
    let server = || ServerInfo::new(source.identity(), 1, source.now());
    let id = || "ID".to_owned();
    same("event-lame-duck", &json::compact(&server()));
    same("event-connect", &json::compact(&Connect::new(server(), id(), at(0), &client(9))));
    for (name, reason) in [
        ("event-disconnect", CloseReason::ClientClosed),
        ("event-auth-error", CloseReason::AuthenticationViolation),
    ] {
        same(name, &json::compact(&Disconnect::new(server(), id(), at(0), &client(9), reason)));
    }
    let account = &source.account_statistics()[0];
    same(
        "event-account-connections",
        &json::compact(&AccountConnections::new(server(), id(), at(0), account)),
    );
}

/// Every recorded shape is used above; a new one must not be forgotten.
#[test]
fn every_recorded_shape_is_compared() {
    let this = include_str!("shapes.rs");
    let built: BTreeSet<String> =
        ["idz", "statsz", "healthz", "profilez", "raftz", "jsz", "gatewayz", "leafz", "accountz"]
            .iter()
            .map(|word| format!("sys-{word}"))
            .collect();
    for name in recorded().keys() {
        assert!(built.contains(*name) || this.contains(&format!("\"{name}\"")), "{name} is compared nowhere");
    }
}
