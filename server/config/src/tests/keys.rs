//! Every key of nats-server is known: each is tried and must change something, or say why it cannot.

use super::{problems, settings};
use crate::Settings;

/// Keys of the top level with a value that is not the default.
pub(super) const TOP: &[(&str, &str)] = &[
    ("listen", "127.0.0.1:5000"),
    ("client_advertise", "h:1"),
    ("port", "5000"),
    ("server_name", "n"),
    ("host", "h"),
    ("net", "h"),
    ("debug", "true"),
    ("trace", "true"),
    ("trace_verbose", "true"),
    ("trace_headers", "true"),
    ("logtime", "false"),
    ("logtime_utc", "true"),
    ("mappings", "{a: b}"),
    ("maps", "{a: b}"),
    ("disable_sublist_cache", "true"),
    ("no_sublist_cache", "true"),
    ("accounts", "[A]"),
    ("default_sentinel", "x"),
    ("authorization", "{token: t}"),
    ("http", "8222"),
    ("https", "h:8222"),
    ("http_port", "8222"),
    ("monitor_port", "8222"),
    ("https_port", "8222"),
    ("http_base_path", "/x"),
    ("cluster", "{port: 6222}"),
    ("store_dir", "/x"),
    ("storedir", "/x"),
    ("logfile", "f"),
    ("log_file", "f"),
    ("logfile_size_limit", "1"),
    ("log_size_limit", "1mb"),
    ("logfile_max_num", "1"),
    ("log_max_num", "1"),
    ("syslog", "true"),
    ("remote_syslog", "udp://h:1"),
    ("pidfile", "f"),
    ("pid_file", "f"),
    ("ports_file_dir", "d"),
    ("prof_port", "1"),
    ("prof_block_rate", "1"),
    ("max_control_line", "1k"),
    ("max_payload", "1k"),
    ("max_pending", "1mb"),
    ("proxy_protocol", "true"),
    ("max_connections", "1"),
    ("max_conn", "0"),
    ("max_traced_msg_len", "1"),
    ("max_subscriptions", "1"),
    ("max_subs", "1"),
    ("max_sub_tokens", "1"),
    ("max_subscription_tokens", "255"),
    ("ping_interval", "\"1s\""),
    ("ping_max", "1"),
    ("tls", "{cert_file: a, key_file: b}"),
    ("ocsp", "{mode: must, url: u}"),
    ("ocsp_cache", "{type: none, local_store: d, preserve_revoked: true, save_interval: 2}"),
    ("allow_non_tls", "true"),
    ("write_deadline", "\"1s\""),
    ("write_timeout", "retry"),
    ("lame_duck_duration", "\"30s\""),
    ("lame_duck_grace_period", "\"1s\""),
    ("operator", "f.jwt"),
    ("operators", "[a, b]"),
    ("roots", "a"),
    ("root", "a"),
    ("root_operators", "a"),
    ("root_operator", "a"),
    ("resolver", "MEMORY"),
    ("account_resolver", "URL(http://h/x)"),
    (
        "accounts_resolver",
        "{type: full, dir: d, allow_delete: true, hard_delete: true, limit: 5, interval: \"2m\", timeout: \"1s\"}",
    ),
    ("resolver_tls", "{ca_file: a}"),
    ("resolver_preload", "{AB5UKNPVHDWBP5WODG742274I3OGY5FM3CBIFCYI4OFEH7Y23GNZPXFE: a.b.c}"),
    ("resolver_pinned_accounts", "[a]"),
    ("no_auth_user", "u"),
    ("system_account", "S"),
    ("system", "S"),
    ("no_system_account", "true"),
    ("no_system", "true"),
    ("no_sys_acc", "true"),
    ("no_header_support", "true"),
    ("trusted", "OAHC7NGAHG3YVPTD6QOUFZGPM2OMU6EOS67O2VHBUOA6BJLPTWFHGLKU"),
    ("trusted_keys", "[OAHC7NGAHG3YVPTD6QOUFZGPM2OMU6EOS67O2VHBUOA6BJLPTWFHGLKU]"),
    ("connect_error_reports", "1"),
    ("reconnect_error_reports", "2"),
    ("server_tags", "[A, b]"),
    ("server_metadata", "{a: b}"),
    ("feature_flags", "{a: true}"),
    ("default_js_domain", "{a: b}"),
    ("no_fast_producer_stall", "true"),
    ("max_closed_clients", "1"),
    ("proxies", "{trusted: [{key: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4}]}"),
    ("starling", "{worker_threads: 2, data_dir: d}"),
];

/// Keys of features that are not built.
pub(super) const NOT_YET: &[(&str, &str)] = &[
    ("jetstream", "{store_dir: x}"),
    ("jetstream", "enabled"),
    ("jetstream", "true"),
    ("leaf", "{port: 1}"),
    ("leafnodes", "{remotes: []}"),
    ("gateway", "{name: x}"),
    ("websocket", "{port: 1}"),
    ("ws", "{port: 1}"),
    ("mqtt", "{port: 1}"),
];

pub(super) const CLUSTER: &[(&str, &str)] = &[
    ("name", "n"),
    ("listen", "h:1"),
    ("port", "1"),
    ("host", "h"),
    ("net", "h"),
    ("authorization", "{user: u, password: p, timeout: 3}"),
    ("routes", "[nats://h:1]"),
    ("tls", "{cert_file: a, key_file: b, verify_cert_and_check_known_urls: true}"),
    ("cluster_advertise", "h:1"),
    ("advertise", "h"),
    ("no_advertise", "true"),
    ("connect_retries", "5"),
    ("connect_backoff", "true"),
    ("permissions", "{import: {allow: a, deny: [b]}, export: \"c\"}"),
    ("pool_size", "5"),
    ("accounts", "[A, B]"),
    ("compression", "{mode: auto, rtt_thresholds: [1ms, 2ms]}"),
    ("ping_interval", "\"1s\""),
    ("ping_max", "5"),
    ("write_deadline", "\"1s\""),
    ("write_timeout", "close"),
];

pub(super) const AUTHORIZATION: &[(&str, &str)] = &[
    ("user", "u"),
    ("username", "u"),
    ("pass", "p"),
    ("password", "p"),
    ("token", "t"),
    ("timeout", "5"),
    ("users", "[{user: a}]"),
    ("default_permission", "{pub: a}"),
    ("default_permissions", "{sub: a}"),
    ("permissions", "{sub: {deny: a}}"),
    ("auth_callout", "{issuer: AB5UKNPVHDWBP5WODG742274I3OGY5FM3CBIFCYI4OFEH7Y23GNZPXFE, auth_users: [a]}"),
    ("auth_hook", "{issuer: AB5UKNPVHDWBP5WODG742274I3OGY5FM3CBIFCYI4OFEH7Y23GNZPXFE, users: [a], acc: B}"),
    ("proxy_required", "true"),
];

pub(super) const PERMISSIONS: &[(&str, &str)] = &[
    ("pub", "a"),
    ("publish", "[a]"),
    ("import", "{allow: a}"),
    ("sub", "a"),
    ("subscribe", "\"a q\""),
    ("export", "a"),
    ("publish_allow_responses", "true"),
    ("allow_responses", "{max: 5, expires: \"1m\"}"),
];

pub(super) const TLS: &[(&str, &str)] = &[
    ("cert_file", "a, key_file: b"),
    ("key_file", "b, cert_file: a"),
    ("ca_file", "a"),
    ("insecure", "true"),
    ("verify", "true"),
    ("verify_and_map", "true"),
    ("allow_insecure_cipher_suites", "true"),
    ("cipher_suites", "[TLS_AES_128_GCM_SHA256]"),
    ("curve_preferences", "[X25519]"),
    ("timeout", "5.5"),
    ("connection_rate_limit", "5"),
    ("pinned_certs", "[7f83b1657ff1fc53b92dc18148a1d65dfc2d4b1fa3d677284addd200126d9069]"),
    ("handshake_first", "auto"),
    ("first", "\"300ms\""),
    ("immediate", "true"),
    (
        "ocsp_peer",
        "{verify: true, ca_timeout: 0.5, allowed_clockskew: 1, warn_only: true, unknown_is_good: true, allow_when_ca_unreachable: true, cache_ttl_when_next_update_unset: 5}, verify: true",
    ),
    ("certs", "[{cert_file: a, key_file: b}]"),
    ("certificates", "[{cert_file: a, key_file: b}]"),
    ("min_version", "\"1.3\""),
];

pub(super) const ACCOUNT: &[(&str, &str)] = &[
    ("nkey", "AB5UKNPVHDWBP5WODG742274I3OGY5FM3CBIFCYI4OFEH7Y23GNZPXFE"),
    ("imports", "[{stream: {account: E, subject: a}}]"),
    ("exports", "[{service: a, allow_trace: true, account_token_position: 1}]"),
    ("users", "[{user: a}]"),
    ("default_permissions", "{pub: a}"),
    ("mappings", "{a: b}"),
    ("maps", "{a: [{destination: b, weight: 5}]}"),
    ("limits", "{max_connections: 5, max_subs: 1, max_pay: 1, max_leafs: 1}"),
    ("msg_trace", "{dest: a, sampling: 5}"),
    ("trace_dest", "a"),
];

/// Each example changes the settings that `frame` makes of nothing.
fn each_changes(table: &[(&str, &str)], keys: &[&str], exempt: &[&str], frame: impl Fn(&str) -> String) {
    let before = settings(&frame(""));
    for (key, value) in table {
        let text = frame(&format!("{key}: {value}"));
        assert_ne!(settings(&text), before, "{text} has no effect");
        // Keys are the same in any case.
        assert_eq!(settings(&text), settings(&frame(&format!("{}: {value}", key.to_uppercase()))), "{text}");
    }
    for key in keys {
        assert!(exempt.contains(key) || table.iter().any(|(tried, _)| tried == key), "{key} is not tried");
    }
}

#[test]
fn every_key_of_the_top_level_is_read() {
    let not_yet: Vec<&str> = NOT_YET.iter().map(|(key, _)| *key).collect();
    each_changes(TOP, crate::read::KEYS, &not_yet, str::to_string);
}

#[test]
fn every_key_of_the_blocks_is_read() {
    each_changes(CLUSTER, crate::cluster::KEYS, &[], |line| format!("cluster {{ {line} }}"));
    each_changes(AUTHORIZATION, crate::auth::KEYS, &[], |line| format!("authorization {{ {line} }}"));
    each_changes(PERMISSIONS, crate::permissions::KEYS, &[], |line| {
        format!("authorization {{ permissions {{ {line} }} }}")
    });
    let windows = ["cert_store", "cert_match_by", "cert_match", "ca_certs_match", "cert_match_skip_invalid"];
    let exempt: Vec<&str> = windows.into_iter().chain(["verify_cert_and_check_known_urls"]).collect();
    each_changes(TLS, crate::tls::KEYS, &exempt, |line| format!("tls {{ {line} }}"));
    each_changes(ACCOUNT, crate::accounts::KEYS, &["jetstream"], |line| {
        format!("accounts {{ E {{ exports: [{{stream: a}}] }}, A {{ {line} }} }}")
    });
    for key in windows {
        assert!(problems(&format!("tls {{ {key}: x }}"))[0].message.contains("Windows"));
    }
}

#[test]
fn features_that_are_not_built_are_refused_with_their_place_unless_they_are_off() {
    for (key, value) in NOT_YET {
        let found = problems(&format!("port: 1\n  {key}: {value}"));
        assert_eq!(found.len(), 1, "{key}");
        let wanted = format!("<text>:2:3: {key:?} is not supported yet");
        assert!(found[0].to_string().starts_with(&wanted), "{}", found[0]);
    }
    for text in [
        "jetstream: false",
        "jetstream: disabled",
        "jetstream {}",
        "jetstream { enabled: false, store_dir: x }",
        "leafnodes {}",
        "accounts { A { jetstream: disabled } }",
    ] {
        settings(text);
    }
    assert!(problems("accounts { A { jetstream: enabled } }")[0].message.contains("not supported yet"));
}

#[test]
fn numbers_of_the_defaults_may_be_written_as_zero() {
    for text in [
        "port: 0",
        "max_payload: 0",
        "max_pending: 0",
        "max_control_line: 0",
        "ping_max: 0",
        "ping_interval: \"0s\"",
        "write_deadline: \"0\"",
        "max_closed_clients: 0",
    ] {
        assert_eq!(settings(text), Settings::default(), "{text}");
    }
}
