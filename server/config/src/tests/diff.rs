//! What a reload may change.

use proptest::prelude::*;

use super::arbitrary::any_settings;
use super::settings;
use crate::diff::{Area, Effect, diff};
use crate::{Port, Settings};

fn lines(old: &str, new: &str) -> Vec<(Effect, String)> {
    diff(&settings(old), &settings(new)).list.into_iter().map(|change| (change.effect, change.line)).collect()
}

#[test]
fn changes_are_told_in_nats_servers_words() {
    for (old, new, line) in [
        ("", "max_payload: 1k", "Reloaded: max_payload = 1000"),
        ("", "debug: true", "Reloaded: debug = true"),
        ("", "max_connections: 5", "Reloaded: max_connections = 5"),
        ("", "ping_interval: \"90s\"", "Reloaded: ping_interval = 1m30s"),
        ("", "ping_max: 5", "Reloaded: ping_max = 5"),
        ("", "write_deadline: \"3s\"", "Reloaded: write_deadline = 3s"),
        ("", "pid_file: x", "Reloaded: pid_file = x"),
        ("", "tls {cert_file: a, key_file: b}", "Reloaded: tls = enabled"),
        ("tls {cert_file: a, key_file: b}", "", "Reloaded: tls = disabled"),
        (
            "tls {cert_file: a, key_file: b}",
            "tls {cert_file: a, key_file: b, timeout: 3}",
            "Reloaded: tls timeout = 3",
        ),
        ("authorization {user: a}", "authorization {user: b}", "Reloaded: authorization username"),
        ("authorization {token: a}", "authorization {token: b}", "Reloaded: authorization token"),
        (
            "authorization {users: [{user: a}]}",
            "authorization {users: [{user: b}]}",
            "Reloaded: authorization users",
        ),
        ("", "accounts: [A]", "Reloaded: accounts"),
        ("", "server_tags: a", "Reloaded: tags"),
        ("cluster {port: 1}", "cluster {port: 1, routes: [nats://h:1]}", "Reloaded: cluster routes"),
        ("", "connect_error_reports: 5", "Reloaded: connect_error_reports = 5"),
    ] {
        assert_eq!(lines(old, new), [(Effect::Reload, line.to_string())], "{old} -> {new}");
    }
}

#[test]
fn what_nats_server_cannot_reload_asks_for_a_restart() {
    for (old, new, line) in [
        ("", "port: 5000", "config reload not supported for port: old=4222, new=5000"),
        ("", "host: h", "config reload not supported for host: old=0.0.0.0, new=h"),
        ("", "server_name: n", "config reload not supported for server_name: old=, new=n"),
        ("", "http: 8222", "config reload not supported for http_port: old=0, new=8222"),
        ("", "max_pending: 2mb", "config reload not supported for max_pending: old=67108864, new=2097152"),
        ("", "max_subs: 5", "config reload not supported for max_subscriptions: old=0, new=5"),
        (
            "",
            "lame_duck_duration: \"30s\"",
            "config reload not supported for lame_duck_duration: old=2m0s, new=30s",
        ),
        (
            "cluster {port: 1}",
            "cluster {port: 2}",
            "config reload not supported for cluster port: old=1, new=2",
        ),
        (
            "cluster {port: 1}",
            "cluster {port: 1, host: h}",
            "config reload not supported for cluster host: old=0.0.0.0, new=h",
        ),
        ("", "resolver: MEMORY", "config reload does not support moving to or from an account resolver"),
        (
            "",
            "system_account: S, accounts: {}",
            "config reload not supported for system_account: old=$SYS, new=S",
        ),
        ("", "log_size_limit: 5", "config reload not supported for log_size_limit: old=0, new=5"),
        (
            "",
            "starling {worker_threads: 3}",
            "config reload not supported for starling.worker_threads: old=auto, new=3",
        ),
    ] {
        assert_eq!(lines(old, new), [(Effect::Restart, line.to_string())], "{old} -> {new}");
    }
}

#[test]
fn order_and_spelling_change_nothing() {
    for (old, new) in [
        ("authorization {users: [{user: a}, {user: b}]}", "authorization {users: [{user: b}, {user: a}]}"),
        (
            "accounts {A {}, B {users: [{user: a}, {user: b}]}}",
            "accounts {B {users: [{user: b}, {user: a}]}, A {}}",
        ),
        (
            "cluster {port: 1, routes: [nats://h:1, nats://i:1]}",
            "cluster {port: 1, routes: [nats://i:1, nats://h:1]}",
        ),
        ("", "system_account: \"$SYS\""),
        ("max_payload: 1mb", "max_payload: 1048576"),
        ("port: 5000", "port: -1"),
    ] {
        assert_eq!(lines(old, new), [], "{old} -> {new}");
    }
}

#[test]
fn no_auth_user_may_only_go_together_with_its_user() {
    let with = "no_auth_user: a, authorization {users: [{user: a}, {user: b}]}";
    let changes = diff(&settings(with), &settings("authorization {users: [{user: b}]}"));
    assert!(!changes.needs_restart() && changes.touches(Area::Authorization));
    assert!(
        diff(&settings(with), &settings("authorization {users: [{user: a}, {user: b}]}")).needs_restart()
    );
    assert!(
        diff(&settings("authorization {users: [{user: a}, {user: b}]}"), &settings(with)).needs_restart()
    );
}

#[test]
fn secrets_are_not_told() {
    let old = "authorization {user: a, password: hunter2}, cluster {port: 1, authorization {user: a, password: hunter2}, routes: [\"nats://u:hunter2@h:1\"]}";
    let changes = diff(&settings(old), &settings(&old.replace("hunter2", "hunter3")));
    assert_eq!(changes.list.len(), 3);
    assert!(changes.list.iter().all(|change| !change.line.contains("hunter")), "{changes:?}");
}

/// The same but for what `diff` overlooks on purpose.
fn normal(settings: &Settings) -> Settings {
    let mut s = settings.clone();
    s.port = Port::Random;
    s.monitoring.http_port = None;
    s.monitoring.https_port = None;
    s.cluster.port = None;
    s.authorization.defined = false;
    s.authorization.users_defined = false;
    s.authorization.users.sort_by(|a, b| a.name().cmp(b.name()));
    s.accounts_defined = false;
    s.accounts.sort_by(|a, b| a.name.cmp(&b.name));
    for account in &mut s.accounts {
        account.users.sort_by(|a, b| a.name().cmp(b.name()));
    }
    s.cluster.routes.sort_by_key(ToString::to_string);
    s.cluster.accounts.sort();
    s.trust.operators.sort();
    s.trust.trusted_keys.sort();
    s.trusted_proxies.sort();
    s.system_account = s.system_account_name().map(str::to_string);
    s.no_system_account = false;
    s
}

type Copy = fn(&mut Settings, &Settings);

macro_rules! fields {
    ($($($field:ident).+),+ $(,)?) => {
        &[$((stringify!($($field).+), |to, from| to.$($field).+ = from.$($field).+.clone())),+]
    };
}

const FIELDS: &[(&str, Copy)] = fields!(
    server_name,
    host,
    client_advertise,
    limits.max_connections,
    limits.max_subscriptions,
    limits.max_sub_tokens,
    limits.max_control_line,
    limits.max_payload,
    limits.max_pending,
    ping_interval,
    ping_max,
    write_deadline,
    write_timeout,
    lame_duck_duration,
    lame_duck_grace_period,
    logging.debug,
    logging.trace,
    logging.trace_verbose,
    logging.trace_headers,
    logging.logtime,
    logging.logtime_utc,
    logging.log_file,
    logging.log_size_limit,
    logging.log_max_num,
    logging.syslog,
    logging.remote_syslog,
    logging.max_traced_msg_len,
    monitoring.host,
    monitoring.base_path,
    pid_file,
    ports_file_dir,
    prof_port,
    prof_block_rate,
    tls,
    allow_non_tls,
    ocsp,
    ocsp_cache,
    proxy_protocol,
    trusted_proxies,
    cluster.name,
    cluster.host,
    cluster.username,
    cluster.password,
    cluster.auth_timeout,
    cluster.permissions,
    cluster.tls,
    cluster.advertise,
    cluster.no_advertise,
    cluster.connect_retries,
    cluster.connect_backoff,
    cluster.pool_size,
    cluster.accounts,
    cluster.compression,
    cluster.ping_interval,
    cluster.ping_max,
    cluster.write_deadline,
    cluster.write_timeout,
    cluster.routes,
    authorization.username,
    authorization.password,
    authorization.token,
    authorization.timeout,
    authorization.users,
    authorization.default_permissions,
    authorization.auth_callout,
    authorization.proxy_required,
    accounts,
    mappings,
    system_account,
    no_system_account,
    no_auth_user,
    trust.operators,
    trust.trusted_keys,
    trust.resolver,
    trust.resolver_tls,
    trust.resolver_preload,
    trust.resolver_pinned_accounts,
    trust.default_sentinel,
    disable_sublist_cache,
    no_header_support,
    no_fast_producer_stall,
    max_closed_clients,
    connect_error_reports,
    reconnect_error_reports,
    server_tags,
    server_metadata,
    feature_flags,
    store_dir,
    default_js_domain,
    starling.worker_threads,
    starling.data_dir,
);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_same_settings_differ_in_nothing(s in any_settings()) {
        prop_assert_eq!(diff(&s, &s).list, vec![]);
    }

    /// Each field on its own: among many, one would not be missed.
    #[test]
    fn no_difference_is_overlooked(a in any_settings(), b in any_settings()) {
        for (field, copy) in FIELDS {
            let mut changed = a.clone();
            copy(&mut changed, &b);
            prop_assert_eq!(diff(&a, &changed).is_empty(), normal(&a) == normal(&changed), "{}", field);
        }
    }
}
