//! What is refused, in whose words, and where.

use super::{problems, read};
use crate::{Config, Settings};

/// Text, and how the only problem found begins.
const WRONG: &[(&str, &str)] = &[
    ("\n  foo: 1", "<text>:2:3: unknown field \"foo\""),
    ("max_paylod: 1", "<text>:1:1: unknown field \"max_paylod\"; did you mean \"max_payload\"?"),
    ("cluster {\n  porrt: 1\n}", "<text>:2:3: unknown field \"porrt\"; did you mean \"port\"?"),
    ("port: abc", "<text>:1:1: expected \"port\" to be an integer, found a string"),
    ("port: 70000", "<text>:1:1: port 70000 is out of the range"),
    ("debug: 1", "<text>:1:1: expected \"debug\" to be a boolean"),
    ("server_name: \"a b\"", "<text>:1:1: server name cannot contain spaces"),
    ("max_payload: 3GB", "<text>:1:1: max_payload value is too big"),
    ("max_sub_tokens: 256", "<text>:1:1: max_sub_tokens value is too big"),
    ("max_sub_tokens: 0", "<text>:1:1: max_sub_tokens value is too small"),
    ("write_deadline: foo", "<text>:1:1: error parsing write_deadline: time: invalid duration \"foo\""),
    ("write_timeout: never", "<text>:1:1: write_timeout must be 'default', 'close' or 'retry'"),
    ("lame_duck_duration: \"10s\"", "<text>:1:1: invalid lame_duck_duration of 10s, minimum is 30 seconds"),
    ("http: foo", "<text>:1:1: could not parse address string \"foo\""),
    ("listen: \"a:b\"", "<text>:1:1: could not parse port \"b\""),
    ("authorization { user: a, password: b, token: c }", "<text>:1:1: Cannot have a user/pass and token"),
    ("authorization { user: a, users: [] }", "<text>:1:1: Can not have a single user/pass and a users array"),
    ("authorization { token: a, users: [{user: b}] }", "<text>:1:1: Can not have a token and a users array"),
    ("authorization { users: [\n{user: a}\n{user: a}] }", "<text>:3:1: Duplicate user \"a\" detected"),
    (
        "authorization { users: [{user: a}] }\naccounts { A { users: [{user: a}] } }",
        "<text>:2:24: Duplicate user \"a\" detected",
    ),
    (
        "authorization { user: a }\naccounts { A { users: [{user: b}] } }",
        "<text>:2:1: Can not have a single user/pass and accounts",
    ),
    ("authorization { users: [{password: a}] }", "<text>:1:25: User entry requires a user"),
    ("authorization { users: [{nkey: abc}] }", "<text>:1:25: Not a valid public nkey for a user"),
    (
        "authorization { users: [{user: a, permissions: {publish: \"a..b\"}}] }",
        "<text>:1:49: subject \"a..b\" is not a valid subject",
    ),
    (
        "authorization { users: [{user: a, permissions: {publish: \"a q\"}}] }",
        "<text>:1:49: subject \"a q\" is not a valid subject",
    ),
    (
        "authorization { users: [{user: a, permissions: {subscribe: {alow: a}}}] }",
        "<text>:1:61: Unknown field name \"alow\" parsing subject permissions, only 'allow' or 'deny' are permitted",
    ),
    (
        "authorization { users: [{user: a, permissions: {publsh: a}}] }",
        "<text>:1:49: Unknown field \"publsh\" parsing permissions; did you mean \"publish\"?",
    ),
    (
        "authorization { users: [{user: a, connection_types: [CARRIER_PIGEON]}] }",
        "<text>:1:35: unknown connection type \"CARRIER_PIGEON\"",
    ),
    (
        "authorization { auth_callout { auth_users: [a] } }",
        "<text>:1:17: Authorization callouts require an issuer",
    ),
    ("cluster { name: \"a b\" }", "<text>:1:11: cluster name cannot contain spaces"),
    (
        "cluster { authorization { users: [{user: a}] } }",
        "<text>:1:11: Cluster authorization does not allow multiple users",
    ),
    ("cluster { authorization { token: a } }", "<text>:1:11: Cluster authorization does not support tokens"),
    (
        "cluster { permissions { allow_responses: true } }",
        "<text>:1:11: Cluster permissions do not support dynamic responses",
    ),
    (
        "cluster { permissions { export: \"a q\" } }",
        "<text>:1:11: cluster export allow: subject \"a q\" is not a valid subject",
    ),
    (
        "cluster { pool_size: -1, accounts: [A] }",
        "<text>:1:1: pool_size cannot be negative if pinned accounts are specified",
    ),
    (
        "cluster { accounts: [A, A] }",
        "<text>:1:1: found duplicate account name \"A\" in pinned accounts list",
    ),
    ("cluster { compression: gzip }", "<text>:1:11: unsupported compression mode \"gzip\""),
    (
        "cluster { compression { mode: auto, rtts: [2ms, 1ms] } }",
        "<text>:1:11: RTT threshold values should be in ascending order",
    ),
    ("cluster { routes: [\n\"h:1\"] }", "<text>:2:1: error parsing route url"),
    ("tls { cert_file: a }", "<text>:1:1: missing 'key_file' in TLS configuration"),
    ("tls { key_file: a }", "<text>:1:1: missing 'cert_file' in TLS configuration"),
    (
        "tls { certificate: a }",
        "<text>:1:7: error parsing tls config, unknown field \"certificate\"; did you mean \"certificates\"?",
    ),
    ("tls { cipher_suites: [X] }", "<text>:1:7: unrecognized cipher X"),
    (
        "tls { cipher_suites: [TLS_RSA_WITH_RC4_128_SHA] }",
        "<text>:1:1: insecure cipher suites configured without",
    ),
    (
        "tls { verify_cert_and_check_known_urls: true }",
        "<text>:1:7: verify_cert_and_check_known_urls not supported in this context",
    ),
    (
        "tls { pinned_certs: [abc] }",
        "<text>:1:7: error parsing tls config, 'pinned_certs' key abc does not look like",
    ),
    ("tls { min_version: \"1.1\" }", "<text>:1:7: error parsing tls config: unsupported TLS version"),
    ("accounts: [A, A]", "<text>:1:15: Duplicate Account Entry: A"),
    ("accounts: { \"$G\" {} }", "<text>:1:13: \"$G\" is a Reserved Account"),
    (
        "accounts { A { imports: [{stream: {account: B, subject: x}}] } }",
        "<text>:1:26: \"B\" account not defined for stream import",
    ),
    (
        "accounts { B {}, A { imports: [{stream: {account: B, subject: x}}] } }",
        "<text>:1:32: Error adding stream import \"x\"",
    ),
    (
        "accounts { A { exports: [{stream: x, accounts: [C]}] } }",
        "<text>:1:26: \"C\" account not defined for stream export",
    ),
    (
        "accounts { A { exports: [{stream: x, response: single}] } }",
        "<text>:1:38: Detected response directive on non-service",
    ),
    (
        "accounts { A { exports: [{stream: x, service: y}] } }",
        "<text>:1:26: Detected stream \"x\" but already saw a service",
    ),
    (
        "accounts { A { limits: { max_conns: 1 } } }",
        "<text>:1:26: Unknown field \"max_conns\" parsing account limits",
    ),
    (
        "mappings { a: [{dest: b, weight: 60}, {dest: c, weight: 60}] }",
        "<text>:1:12: Error adding mapping for \"a\" : total weight needs to be <= 100",
    ),
    ("mappings { a: [{dest: b}] }", "<text>:1:16: Missing weight for mapping destination \"b\""),
    ("mappings { \"a.*\": \"b.$2\" }", "<text>:1:12: Error adding mapping for \"a.*\" :"),
    ("mappings { \"a..b\": c }", "<text>:1:12: Subject \"a..b\" is not a valid subject"),
    ("trusted_keys: abc", "<text>:1:1: trust key \"abc\" required to be a valid public operator nkey"),
    ("resolver: URLL", "<text>:1:1: error parsing account resolver, should be MEM"),
    ("resolver { type: full }", "<text>:1:1: dir has no value and needs to point to a directory"),
    ("resolver { type: cache, dir: d, interval: \"1s\" }", "<text>:1:1: CACHE does not accept interval"),
    ("system_account: 5", "<text>:1:1: system account name must be a string"),
    ("feature_flags { a: 1 }", "<text>:1:17: error parsing feature flag \"a\": expected a boolean"),
    ("starling { worker_threads: 0 }", "<text>:1:12: worker_threads value is too small"),
    ("starling { speed: 11 }", "<text>:1:12: unknown field \"speed\""),
];

#[test]
fn mistakes_are_told_with_their_place() {
    for (text, wanted) in WRONG {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(
            found[0].to_string().starts_with(wanted),
            "{text}:\n  wanted {wanted}\n  found  {}",
            found[0]
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let found = problems("prot: 1\ndebug: 3\ncluster { name: \"a b\", foo: 1 }");
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_definition_that_a_variable_uses_may_have_any_name() {
    read("MY_PORT: 4333\nport: $MY_PORT\ncluster { X: 1, connect_retries: $X }");
    assert_eq!(problems("MY_PORT: 4333\nport: 4333").len(), 1);
}

#[test]
fn doubtful_things_are_warned_of() {
    for (text, wanted) in [
        (
            "ping_interval: 2",
            "<text>:1:1: invalid use of field \"ping_interval\": ping_interval should be converted to a duration",
        ),
        (
            "authorization { timeout: 1m }",
            "<text>:1:17: invalid use of field \"timeout\": timeout of 1000000 seconds is high",
        ),
        (
            "cluster { port: 1, ping_interval: \"1m\" }",
            "<text>:1:20: Cluster 'ping_interval' will reset to 30s which is the max for routes",
        ),
        (
            "cluster { authorization { permissions { import: a } } }",
            "<text>:1:11: invalid use of field \"authorization\"",
        ),
        (
            "cluster { port: 1, routes: [nats://h:1, nats://h:1] }",
            "<text>:1:41: Duplicate route entry detected",
        ),
        ("max_payload: 9mb", "<text>:1:1: Maximum payloads over 8.00 MB are generally discouraged"),
        ("listen: 1\nport: 2", "<text>:2:1: \"port\" sets the port again, which \"listen\" set before"),
        ("cluster { routes: [nats://h:1] }", "the cluster block lists routes but no port"),
    ] {
        let warnings = read(text).warnings;
        assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
        assert!(warnings[0].to_string().starts_with(wanted), "{text}: {}", warnings[0]);
    }
}

#[test]
fn contradictions_are_found_once_flags_are_applied() {
    for (text, wanted) in [
        (
            "lame_duck_grace_period: \"3m\"",
            "lame duck grace period (3m0s) should be strictly lower than lame duck duration (2m0s)",
        ),
        ("max_pending: 1k", "max_payload (1048576) cannot be higher than max_pending (1000)"),
        ("no_auth_user: x", "no_auth_user: \"x\" present, but users/nkeys are not defined"),
        (
            "no_auth_user: x, authorization { users: [{user: y}] }",
            "no_auth_user: \"x\" not present as user or nkey",
        ),
        ("default_sentinel: x", "default sentinel requires operators and accounts"),
        ("operator: a, accounts: [A]", "operators do not allow Accounts to be configured directly"),
        ("http: 1, https: 2, tls { cert_file: a, key_file: b }", "can't specify both HTTP and HTTPs ports"),
        (
            "client_advertise: \"a:b:c\"",
            "invalid client_advertise: address \"a:b:c\" is neither a host nor host:port",
        ),
        ("cluster { advertise: \"h:x\" }", "invalid cluster.advertise: could not parse port \"x\""),
        ("https: 1", "TLS cert and key required for HTTPS"),
    ] {
        let error = read(text).settings.validate().unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{text}: {error}");
    }
    assert_eq!(Settings::default().validate(), Ok(()));
}

#[test]
fn secrets_do_not_appear_in_messages() {
    let text = "authorization { user: a, password: hunter2, token: hunter2 }\ncluster { routes: [\"nats://u:hunter2@h o\"] }";
    let error = Settings::from_config(&Config::parse_text(text).unwrap()).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}
