//! Owns the scenarios that need a configured server: TLS, a route, permissions, mappings.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::streams::pairs;
use super::{Bench, Bound, Goal, Metric, Metrics, Scenario, Servers, Target, ahead, figures};
use crate::Error;
use crate::block::Block;
use crate::link::Endpoint;
use crate::process::{Launch, free_port};
use crate::traffic::{Party, Traffic};

/// Nanoseconds that permissions or mappings may add to a message whose plan is cached.
const ADDED_NANOSECONDS_MAX: f64 = 5.0;

pub(super) fn scenarios() -> Vec<Scenario> {
    let tls_goal = || vec![Goal::new(Metric::Rate, Bound::RatioAtLeast, 1.3)];
    let mut added = ahead();
    added.push(Goal::new(Metric::AddedNanoseconds, Bound::AtMost, ADDED_NANOSECONDS_MAX));
    vec![
        Scenario::new("tls-128", "TLS, 1 to 1, 128 B", "msg", tls_goal(), |bench| tls(bench, 128)),
        Scenario::new("tls-16k", "TLS, 1 to 1, 16 KB", "msg", tls_goal(), |bench| tls(bench, 16 << 10)),
        Scenario::new(
            "route-128",
            "over a route, 1 to 1, 128 B (CPU of both servers)",
            "msg",
            vec![
                Goal::new(Metric::Rate, Bound::RatioAtLeast, 1.0),
                Goal::new(Metric::CpuNanoseconds, Bound::RatioAtMost, 0.25),
            ],
            |bench| route(bench, 128),
        ),
        Scenario::new(
            "permissions",
            "1 to 1, 128 B, publisher and subscriber with allow and deny lists",
            "msg",
            added.clone(),
            permissions,
        ),
        Scenario::new("mappings", "1 to 1, 128 B, subject mapped by a wildcard", "msg", added, mappings),
    ]
}

fn tls(bench: &Bench<'_>, bytes: usize) -> Result<Metrics, Error> {
    let error = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let issued = rcgen::generate_simple_self_signed(names).map_err(|e| error(&e))?;
    let mut servers = bench.configured(&Launch {
        config: "tls { cert_file: \"DIR/cert.pem\", key_file: \"DIR/key.pem\" }\n".to_owned(),
        files: vec![
            ("cert.pem".to_owned(), issued.cert.pem()),
            ("key.pem".to_owned(), issued.signing_key.serialize_pem()),
        ],
        ..Launch::default()
    })?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(issued.cert.der().to_vec())).map_err(|e| error(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| error(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    for endpoint in &mut servers.endpoints {
        endpoint.tls = Some(Arc::clone(&config));
    }
    let flow = servers.stream(&pairs(1, bytes), bench.timing)?;
    Ok(figures(&servers, &flow.spent))
}

/// Two servers of the same kind, routed to each other: publishers at the first, subscribers at the
/// second.
pub(crate) fn cluster(bench: &Bench<'_>) -> Result<Servers, Error> {
    let Target::Binary(path) = bench.target else {
        return Err(Error::Unsupported(super::NEEDS_BINARY));
    };
    let ports = [free_port()?, free_port()?];
    let mut processes = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let other = ports.get(1 - index).copied().unwrap_or_default();
        let config = format!(
            "server_name: bench{index}\n\
             cluster {{ name: bench, listen: \"127.0.0.1:{port}\", routes: [\"nats://127.0.0.1:{other}\"] }}\n"
        );
        processes.push(bench.start(path, &Launch { config, ..Launch::default() })?);
    }
    Ok(Servers {
        endpoints: processes.iter().map(|process| Endpoint::plain(process.address)).collect(),
        processes,
    })
}

fn route(bench: &Bench<'_>, bytes: usize) -> Result<Metrics, Error> {
    let servers = cluster(bench)?;
    let traffic = Traffic {
        parties: vec![
            Party::subscriber(0, "bench.route", 1).at(1),
            Party::publisher(0, Block::one_subject("bench.route", bytes)),
        ],
        ..Traffic::default()
    };
    let flow = servers.stream(&traffic, bench.timing)?;
    Ok(figures(&servers, &flow.spent))
}

fn permissions(bench: &Bench<'_>) -> Result<Metrics, Error> {
    const USERS: &str = r#"
authorization {
  users: [ {
    user: bench, password: bench
    permissions: {
      publish: { allow: ["bench.>", "orders.*.new", "_INBOX.>"], deny: ["bench.secret.>", "bench.*.private"] }
      subscribe: { allow: ["bench.>", "_INBOX.>"], deny: ["bench.secret.>", "bench.*.private"] }
    }
  } ]
}
"#;
    beside_plain(bench, &pairs(1, 128), USERS, |endpoint| {
        endpoint.user = Some(("bench".to_owned(), "bench".to_owned()));
    })
}

fn mappings(bench: &Bench<'_>) -> Result<Metrics, Error> {
    let mapped = Traffic {
        parties: vec![
            Party::subscriber(0, "bench.x", 1),
            Party::publisher(0, Block::one_subject("inlet.x", 128)),
        ],
        ..Traffic::default()
    };
    let config = "mappings = { \"inlet.*\": \"bench.{{wildcard(1)}}\" }\n";
    beside_plain(bench, &mapped, config, |_| {})
}

/// Runs `traffic` with the configuration, and the same kind of traffic on a plain server first, so
/// that what the configuration adds is known from the same minute.
fn beside_plain(
    bench: &Bench<'_>,
    traffic: &Traffic,
    config: &str,
    login: impl Fn(&mut Endpoint),
) -> Result<Metrics, Error> {
    let timing = bench.part(2);
    let plain = {
        let servers = bench.configured(&Launch::default())?;
        servers.stream(&pairs(1, 128), timing)?
    };
    let mut servers = bench.configured(&Launch { config: config.to_owned(), ..Launch::default() })?;
    servers.endpoints.iter_mut().for_each(login);
    let flow = servers.stream(traffic, timing)?;
    let mut metrics = figures(&servers, &flow.spent);
    metrics.insert(Metric::AddedNanoseconds, flow.spent.cpu_nanoseconds() - plain.spent.cpu_nanoseconds());
    Ok(metrics)
}
