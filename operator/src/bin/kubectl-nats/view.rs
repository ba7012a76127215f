//! What is printed. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use operator::crd::{AuthMode, NatsAccount, NatsCluster, NatsUser};

/// Columns, aligned by their widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn reason<'a>(conditions: &'a [Condition], kind: &str) -> (&'a str, &'a str) {
    let found = conditions.iter().find(|condition| condition.type_ == kind);
    found.map_or(("", "no status yet: does the operator run?"), |found| (&found.reason, &found.message))
}

/// One line a cluster.
pub fn clusters(clusters: &[NatsCluster], namespace: &str) -> String {
    if clusters.is_empty() {
        return format!("no NatsCluster in namespace {namespace}\n");
    }
    let mut rows = vec![row(["NAME", "READY", "VERSION", "STATUS", "MESSAGE"])];
    for cluster in clusters {
        let status = cluster.status.clone().unwrap_or_default();
        let (reason, message) = reason(&status.conditions, "Ready");
        let ready = format!("{}/{}", status.ready_replicas, cluster.spec.replicas);
        let version = status.version.current.unwrap_or_default();
        rows.push(row([&cluster.name_any(), &ready, &version, reason, message]));
    }
    table(&rows)
}

/// Everything about a cluster.
pub fn cluster(cluster: &NatsCluster, accounts: &[NatsAccount], users: &[NatsUser]) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let (why, message) = reason(&status.conditions, "Ready");
    let mut text = format!(
        "{}: {}/{} ready, {why}: {message}\n",
        cluster.name_any(),
        status.ready_replicas,
        cluster.spec.replicas
    );
    if status.observed_generation != cluster.metadata.generation {
        text.push_str("the operator has not seen the newest spec yet\n");
    }
    for endpoint in &status.endpoints {
        let _ = writeln!(text, "{}: {}", endpoint.name, endpoint.url);
    }
    text.push('\n');
    let mut rows = vec![row(["SERVER", "READY", "UPDATED", "ROUTES", "VERSION", ""])];
    for server in &status.servers {
        let routes = server.routes.map(|routes| routes.to_string()).unwrap_or_else(|| "?".to_owned());
        rows.push(row([
            &server.name,
            yes(server.ready),
            yes(server.updated),
            &routes,
            server.version.as_deref().unwrap_or("?"),
            if server.leaving { "leaving" } else { "" },
        ]));
    }
    text.push_str(&table(&rows));
    text.push('\n');
    let mut rows = vec![row(["CONDITION", "", "REASON", "MESSAGE"])];
    for condition in &status.conditions {
        rows.push(row([&condition.type_, &condition.status, &condition.reason, &condition.message]));
    }
    text.push_str(&table(&rows));
    if cluster.spec.auth.mode == AuthMode::Static || !accounts.is_empty() || !users.is_empty() {
        text.push('\n');
        text.push_str(&tenants(accounts, users));
    }
    text
}

fn tenants(accounts: &[NatsAccount], users: &[NatsUser]) -> String {
    let mut rows = vec![row(["ACCOUNT", "USER", "SECRET", "STATUS", "MESSAGE"])];
    for account in accounts {
        let name = account.name_any();
        let conditions = account.status.clone().unwrap_or_default().conditions;
        let (why, message) = reason(&conditions, "Synced");
        rows.push(row([&name, "", "", why, message]));
        for user in users.iter().filter(|user| user.spec.account_ref.name == name) {
            rows.push(user_row(user));
        }
    }
    let known = |user: &&NatsUser| accounts.iter().any(|a| a.name_any() == user.spec.account_ref.name);
    rows.extend(users.iter().filter(|user| !known(user)).map(user_row));
    table(&rows)
}

fn user_row(user: &NatsUser) -> Vec<String> {
    let status = user.status.clone().unwrap_or_default();
    let (why, message) = reason(&status.conditions, "Synced");
    let secret = status.secret_name.unwrap_or_default();
    row([&user.spec.account_ref.name, &user.name_any(), &secret, why, message])
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// A user's Secret as lines that a shell takes.
pub fn environment(data: &BTreeMap<String, String>) -> String {
    let names = [
        ("url", "NATS_URL"),
        ("user", "NATS_USER"),
        ("password", "NATS_PASSWORD"),
        ("nkey", "NATS_NKEY_SEED"),
        ("ca.crt", "NATS_CA_PEM"),
    ];
    let mut text = String::new();
    for (key, variable) in names {
        if let Some(value) = data.get(key) {
            let _ = writeln!(text, "export {variable}='{}'", value.replace('\'', r"'\''"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(table(&[row(["A", "B"]), row(["long", "x"])]), "A     B\nlong  x\n");
    }

    #[test]
    fn a_cluster_without_an_operator_is_told_so() {
        let object: NatsCluster = serde_json::from_value(json!({
            "apiVersion": "starling.dev/v1alpha1", "kind": "NatsCluster",
            "metadata": {"name": "orders", "generation": 1}, "spec": {},
        }))
        .expect("a NatsCluster");
        let text = cluster(&object, &[], &[]);
        assert!(text.contains("0/3 ready") && text.contains("does the operator run?"), "{text}");
        assert!(text.contains("has not seen the newest spec"), "{text}");
        assert!(!text.contains("ACCOUNT"), "{text}");
    }

    #[test]
    fn users_are_shown_beneath_their_account_and_lost_ones_at_the_end() {
        let account =
            serde_json::from_value(json!({"apiVersion": "starling.dev/v1alpha1", "kind": "NatsAccount",
            "metadata": {"name": "shop"}, "spec": {"clusterRef": {"name": "orders"}}}))
            .expect("a NatsAccount");
        let user = |name: &str, account: &str| {
            serde_json::from_value(json!({"apiVersion": "starling.dev/v1alpha1", "kind": "NatsUser",
                "metadata": {"name": name},
                "spec": {"clusterRef": {"name": "orders"}, "accountRef": {"name": account}}}))
            .expect("a NatsUser")
        };
        let text = tenants(&[account], &[user("lost", "nowhere"), user("ann", "shop")]);
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[1].starts_with("shop") && lines[2].contains("ann") && lines[3].contains("lost"),
            "{text}"
        );
    }

    #[test]
    fn credentials_survive_a_shell() {
        let data = BTreeMap::from([
            ("url".to_owned(), "nats://a:4222".to_owned()),
            ("password".to_owned(), "it's".to_owned()),
            ("operator-state.json".to_owned(), "{}".to_owned()),
        ]);
        assert_eq!(environment(&data), "export NATS_URL='nats://a:4222'\nexport NATS_PASSWORD='it'\\''s'\n");
    }
}
