//! The page for users names every key, and says of each what a reload does with it.

use super::keys::{ACCOUNT, AUTHORIZATION, CLUSTER, NOT_YET, PERMISSIONS, TLS, TOP};
use super::settings;
use crate::diff;
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../../docs/configuration.md");

/// Keys that are read and then refused when the server starts or reloads: `node::access` has the list.
const REFUSED: &[&str] = &["prof_port", "jetstream"];

/// Keys that a server without JetStream, without a cache to switch off and without a profiler has no use for.
const WITHOUT_EFFECT: &[&str] =
    &["disable_sublist_cache", "no_sublist_cache", "feature_flags", "default_js_domain", "prof_block_rate"];

/// Keys that Windows has a use for.
const WINDOWS: &[&str] =
    &["cert_store", "cert_match_by", "cert_match", "ca_certs_match", "cert_match_skip_invalid"];

const RELOAD: &str = "taken by a reload";
const RESTART: &str = "asks for a restart";
const IGNORED: &str = "read, without effect here";
const NAMED: &str = "refused by name";

/// What becomes of a key's change.
fn fate(key: &str, before: &str, after: &str) -> &'static str {
    if REFUSED.contains(&key) || WINDOWS.contains(&key) {
        return NAMED;
    }
    if WITHOUT_EFFECT.contains(&key) {
        return IGNORED;
    }
    let changes = diff(&settings(before), &settings(after));
    assert!(!changes.is_empty(), "{after}: a reload would not see it");
    if changes.needs_restart() { RESTART } else { RELOAD }
}

/// A table of one block: its keys by what becomes of them.
fn table(keys: &[&str], examples: &[(&str, &str)], frame: impl Fn(&str) -> String) -> String {
    let mut fates: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let order = [RELOAD, RESTART, IGNORED, NAMED];
    for key in keys {
        let example = examples.iter().find(|(tried, _)| tried == key);
        let fate = match example {
            Some((_, value)) => fate(key, &frame(""), &frame(&format!("{key}: {value}"))),
            None if NOT_YET.iter().any(|(later, _)| later == key) => NAMED,
            // tried elsewhere: a key of routes' TLS alone
            None if *key == "verify_cert_and_check_known_urls" => RELOAD,
            None => fate(key, "", ""),
        };
        let place = order.iter().position(|known| *known == fate).unwrap_or_default();
        fates.entry(place).or_default().push(format!("`{key}`"));
    }
    let rows = fates.iter().map(|(place, keys)| format!("| {} | {} |\n", order[*place], keys.join(", ")));
    format!("| | keys |\n|---|---|\n{}", rows.collect::<String>())
}

#[test]
fn the_page_names_every_key_and_what_a_reload_does_with_it() {
    let plain = |line: &str| line.to_owned();
    let account = |line: &str| format!("accounts {{ E {{ exports: [{{stream: a}}] }}, A {{ {line} }} }}");
    let tables = [
        ("top level", table(crate::read::KEYS, TOP, plain)),
        (
            "`cluster`",
            table(crate::cluster::KEYS, CLUSTER, |line| format!("cluster {{ listen: \"b:9\", {line} }}")),
        ),
        ("`tls`", table(crate::tls::KEYS, TLS, |line| format!("tls {{ {line} }}"))),
        (
            "`authorization`",
            table(crate::auth::KEYS, AUTHORIZATION, |line| format!("authorization {{ {line} }}")),
        ),
        (
            "`permissions`",
            table(crate::permissions::KEYS, PERMISSIONS, |line| {
                format!("authorization {{ users: [{{user: u, permissions {{ {line} }}}}] }}")
            }),
        ),
        ("an account", table(crate::accounts::KEYS, ACCOUNT, account)),
    ];
    let wanted: String =
        tables.iter().map(|(block, rows)| format!("### Keys of {block}\n\n{rows}\n")).collect();
    let begin = PAGE.find("### Keys of").unwrap_or(PAGE.len());
    let end = PAGE.find("\n## Beyond").unwrap_or(PAGE.len());
    let shown = PAGE[begin..end].trim();
    assert!(shown == wanted.trim(), "docs/configuration.md should say:\n\n{wanted}");
}
