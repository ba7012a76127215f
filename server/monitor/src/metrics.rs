//! `/metrics`: the numbers of `/varz`, `/subsz`, `/accstatz`, `/routez` and `/healthz` for Prometheus.
//!
//! Owns the names. They are those of prometheus-nats-exporter (`gnatsd_varz_connections` and so on, all gauges, with
//! the label `server_id`), so that dashboards made for it keep working without it. The numbers of `/varz` are taken
//! from its JSON, as the exporter does: a field that is added there appears here by itself.
//!
//! Never lists single connections: their number has no bound.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde_json::Value;

use crate::accountz::{AccountStatz, AccountStatzOptions};
use crate::healthz::{HealthStatus, HealthzOptions};
use crate::routez::{Routez, RoutezOptions};
use crate::source::Source;
use crate::subsz::IndexSummary;
use crate::time::Timestamp;
use crate::{accountz, healthz, routez, varz};

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Parts of `/varz` that the exporter leaves out: configuration, not numbers to plot.
const LEFT_OUT: [&str; 4] =
    ["trusted_operators_claim", "cluster_tls_timeout", "cluster_cluster_port", "cluster_auth_timeout"];

/// The numbers as OpenMetrics text.
pub(crate) fn text(source: &dyn Source) -> String {
    let varz = varz::document(source);
    let snapshot = Snapshot {
        server_id: varz.server_id.clone(),
        version: varz.version.clone(),
        starling_version: varz.starling_version.clone(),
        server_name: varz.server_name.clone(),
        cluster_name: varz.cluster.name.clone(),
        start: varz.start,
        config_load_time: varz.config_load_time,
        varz: serde_json::to_value(&varz).unwrap_or(Value::Null),
        indexes: serde_json::to_value(IndexSummary::new(&source.index_statistics(None)))
            .unwrap_or(Value::Null),
        accounts: accountz::statistics(
            source,
            &AccountStatzOptions { include_unused: true, ..AccountStatzOptions::default() },
        ),
        routes: routez::document(source, RoutezOptions::default()),
        health: healthz::document(source, &HealthzOptions::default()),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut text = String::with_capacity(16 * 1024);
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes every character");
    text
}

/// Everything that one scrape shows.
#[derive(Debug)]
struct Snapshot {
    server_id: String,
    version: String,
    starling_version: String,
    server_name: String,
    cluster_name: String,
    start: Timestamp,
    config_load_time: Timestamp,
    varz: Value,
    indexes: Value,
    accounts: AccountStatz,
    routes: Routez,
    health: HealthStatus,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_numbers(&mut encoder, "varz", &mut Vec::new(), &self.varz)?;
        self.encode_numbers(&mut encoder, "subsz", &mut Vec::new(), &self.indexes)?;
        self.encode_server(&mut encoder)?;
        self.encode_accounts(&mut encoder)?;
        self.encode_routes(&mut encoder)
    }
}

/// One gauge of one sample for each entity: name, help, and the value of an entity.
type Column<T> = (&'static str, &'static str, fn(&T) -> f64);

impl Snapshot {
    /// Walks the JSON of a document; nested fields are joined by underscores, as are the slashes of paths.
    fn encode_numbers<'v>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        document: &str,
        path: &mut Vec<&'v str>,
        value: &'v Value,
    ) -> fmt::Result {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    path.push(name);
                    self.encode_numbers(encoder, document, path, field)?;
                    path.pop();
                }
                Ok(())
            }
            Value::Number(number) => {
                let name = metric_name(path);
                if LEFT_OUT.contains(&name.as_str()) {
                    return Ok(());
                }
                let value = number.as_f64().unwrap_or(0.0);
                let help = format!("{} of /{document}", path.join("."));
                self.gauge(encoder, &format!("gnatsd_{document}_{name}"), &help, &[], value)
            }
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => Ok(()),
        }
    }

    /// Texts, which are the label of a gauge at 1, and times, which the exporter gives in milliseconds.
    fn encode_server(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in [
            ("gnatsd_varz_server_id", "Id of this run of the server", &self.server_id),
            ("gnatsd_varz_server_name", "Name of the server", &self.server_name),
            ("gnatsd_varz_cluster_name", "Name of the cluster", &self.cluster_name),
            ("gnatsd_varz_version", "nats-server version that tools may count on", &self.version),
        ] {
            if !value.is_empty() {
                self.gauge(encoder, name, help, &[("value", value)], 1.0)?;
            }
        }
        let version = [("version", self.starling_version.as_str())];
        self.gauge(encoder, "starling_build_info", "Version of this server", &version, 1.0)?;
        let milliseconds = |time: Timestamp| (time.unix_nanos() / 1_000_000) as f64;
        let help = "When the server started, in milliseconds since 1970";
        self.gauge(encoder, "gnatsd_varz_start", help, &[], milliseconds(self.start))?;
        let help = "When the configuration was last read, in milliseconds since 1970";
        self.gauge(encoder, "gnatsd_varz_config_load_time", help, &[], milliseconds(self.config_load_time))?;
        let failed = if self.health.status == "ok" { 0.0 } else { 1.0 };
        self.gauge(encoder, "gnatsd_healthz_status", "0 if /healthz says ok, 1 if not", &[], failed)?;
        let value = [("value", self.health.status)];
        self.gauge(
            encoder,
            "gnatsd_healthz_status_value",
            "1 if /healthz says ok, 0 if not",
            &value,
            1.0 - failed,
        )
    }

    fn encode_accounts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let columns: [Column<accountz::AccountStat>; 9] = [
            ("current_connections", "Open client connections", |account| account.conns as f64),
            ("total_connections", "Open client and leaf node connections", |account| {
                account.total_conns as f64
            }),
            ("subscriptions", "Subscriptions", |account| account.num_subscriptions as f64),
            ("leaf_nodes", "Open leaf node connections", |account| account.leafnodes as f64),
            ("sent_messages", "Messages sent", |account| account.sent.total.messages as f64),
            ("sent_bytes", "Bytes sent", |account| account.sent.total.bytes as f64),
            ("received_messages", "Messages received", |account| account.received.total.messages as f64),
            ("received_bytes", "Bytes received", |account| account.received.total.bytes as f64),
            ("slow_consumers", "Connections closed for being too slow", |account| {
                account.slow_consumers as f64
            }),
        ];
        for (name, help, of) in columns {
            let samples = self.accounts.account_statz.iter().map(|account| {
                let labels = vec![
                    ("account", account.acc.clone()),
                    ("account_id", account.acc.clone()),
                    ("account_name", account.name.clone()),
                ];
                (labels, of(account))
            });
            self.family(encoder, &format!("gnatsd_accstatz_{name}"), help, samples)?;
        }
        Ok(())
    }

    fn encode_routes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let count = self.routes.num_routes as f64;
        self.gauge(encoder, "gnatsd_routez_num_routes", "Open route connections", &[], count)?;
        let columns: [Column<routez::RouteInfo>; 6] = [
            ("pending_size", "Bytes waiting to be written", |route| route.pending_size as f64),
            ("in_msgs", "Messages received", |route| route.in_msgs as f64),
            ("out_msgs", "Messages sent", |route| route.out_msgs as f64),
            ("in_bytes", "Bytes received", |route| route.in_bytes as f64),
            ("out_bytes", "Bytes sent", |route| route.out_bytes as f64),
            ("subscriptions", "Remote subscriptions", |route| f64::from(route.subscriptions)),
        ];
        for (name, help, of) in columns {
            let samples = self.routes.routes.iter().map(|route| {
                let labels = vec![
                    ("rid", route.rid.to_string()),
                    ("remote_name", route.remote_name.clone()),
                    ("account", route.account.clone()),
                ];
                (labels, of(route))
            });
            self.family(encoder, &format!("gnatsd_routez_{name}"), help, samples)?;
        }
        Ok(())
    }

    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        labels: &[(&'static str, &str)],
        value: f64,
    ) -> fmt::Result {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.family(encoder, name, help, std::iter::once((labels, value)))
    }

    /// A gauge with one sample for each set of labels; `server_id` is added to all.
    fn family(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Vec<(&'static str, String)>, f64)>,
    ) -> fmt::Result {
        let mut family =
            encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
        for (mut labels, value) in samples {
            labels.insert(0, ("server_id", self.server_id.clone()));
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The exporter's name for a field: joined by underscores, slashes turned into them, none doubled or at the ends.
fn metric_name(path: &[&str]) -> String {
    let joined = path.join("_").replace('/', "_");
    let mut name = String::with_capacity(joined.len());
    for part in joined.split('_').filter(|part| !part.is_empty()) {
        if !name.is_empty() {
            name.push('_');
        }
        name.push_str(part);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_exporter() {
        assert_eq!(metric_name(&["http_req_stats", "/varz"]), "http_req_stats_varz");
        assert_eq!(metric_name(&["slow_consumer_stats", "clients"]), "slow_consumer_stats_clients");
        assert_eq!(metric_name(&["http_req_stats", "/"]), "http_req_stats");
    }
}
