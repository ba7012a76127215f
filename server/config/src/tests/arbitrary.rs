//! Settings such as a file can say, at random; and that rendering loses none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use crate::accounts::{
    Account, AccountLimits, Destination, Export, ExportKind, Import, ImportKind, Latency, Mapping,
    MessageTrace, ResponseType,
};
use crate::address::{Port, ServerUrl};
use crate::auth::{AuthCallout, Authorization, ConnectionType, Credential, Place, User};
use crate::cluster::{Cluster, Compression};
use crate::ocsp::OcspPeer;
use crate::permissions::{Permissions, ResponsePermission, SubjectPermission};
use crate::settings::{
    Limits, Logging, Monitoring, Ocsp, OcspCache, OcspCacheKind, OcspMode, Settings, Starling, WriteTimeout,
};
use crate::tls::{CertificatePair, HandshakeFirst, Tls, TlsVersion};
use crate::trust::{Resolver, Trust};
use crate::{Config, render};

const ACCOUNT_KEY: &str = "AB5UKNPVHDWBP5WODG742274I3OGY5FM3CBIFCYI4OFEH7Y23GNZPXFE";
const USER_KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
const OPERATOR_KEY: &str = "OAHC7NGAHG3YVPTD6QOUFZGPM2OMU6EOS67O2VHBUOA6BJLPTWFHGLKU";
const CURVE_KEY: &str = "XAB3NANV3M6N7AHSQP2U5FRWKKUT7EG2ZXXABV4XVXYQRJGM4S2CZGHT";

/// Text of any kind, never empty: the empty one means "not set".
fn text() -> BoxedStrategy<String> {
    prop_oneof![
        "[a-z]{1,8}",
        "\\PC{1,8}",
        "[$0-9][a-z0-9.$]{0,6}",
        Just("true".to_string()),
        Just("\n\t\"'\\{".to_string())
    ]
    .boxed()
}

fn name() -> BoxedStrategy<String> {
    "[a-zA-Z0-9_.-]{1,8}".boxed()
}

fn some_text() -> BoxedStrategy<Option<String>> {
    option::of(text()).boxed()
}

fn port() -> BoxedStrategy<Port> {
    prop_oneof![Just(Port::Random), (1..=u16::MAX).prop_map(Port::Fixed)].boxed()
}

/// A duration, never zero: that means the default.
fn duration() -> BoxedStrategy<Duration> {
    prop_oneof![
        (1..100_u64).prop_map(Duration::from_secs),
        (1..i64::MAX as u64).prop_map(Duration::from_nanos)
    ]
    .boxed()
}

fn subject() -> BoxedStrategy<String> {
    "[a-z]{1,3}(\\.([a-z]{1,3}|\\*)){0,2}(\\.>)?".boxed()
}

fn write_timeout() -> BoxedStrategy<WriteTimeout> {
    prop_oneof![Just(WriteTimeout::Default), Just(WriteTimeout::Close), Just(WriteTimeout::Retry)].boxed()
}

fn subject_permission() -> BoxedStrategy<SubjectPermission> {
    (option::of(vec(subject(), 1..3)), vec(subject(), 0..3))
        .prop_map(|(allow, deny)| SubjectPermission { allow, deny })
        .boxed()
}

fn permissions(responses: bool) -> BoxedStrategy<Permissions> {
    let response = (option::of(1..1000_u32), option::of(duration()))
        .prop_map(|(max_msgs, expires)| ResponsePermission { max_msgs, expires });
    (option::of(subject_permission()), option::of(subject_permission()), option::of(response))
        .prop_map(move |(publish, subscribe, response)| {
            let mut p = Permissions { publish, subscribe, allow_responses: response.filter(|_| responses) };
            if p.allow_responses.is_some() {
                p.publish.get_or_insert_default().allow.get_or_insert_default();
            }
            p
        })
        .boxed()
}

fn tls(route: bool) -> BoxedStrategy<Tls> {
    let pair = (text(), text()).prop_map(|(cert_file, key_file)| CertificatePair { cert_file, key_file });
    let first = prop_oneof![
        Just(HandshakeFirst::Off),
        Just(HandshakeFirst::On),
        duration().prop_map(HandshakeFirst::Fallback)
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let hash = "[0-9a-f]{64}";
    (
        vec(pair, 0..3),
        some_text(),
        flags,
        duration(),
        any::<u32>(),
        btree_set(hash, 0..2),
        first,
        option::of(ocsp_peer()),
    )
        .prop_map(
            move |(certificates, ca_file, flags, timeout, rate, pinned_certs, handshake_first, ocsp_peer)| {
                let (verify, map, known, insecure, weak, v1_3) = flags;
                let known = known && route;
                Tls {
                    certificates,
                    ca_file,
                    verify: verify || map || known,
                    verify_and_map: map,
                    verify_cert_and_check_known_urls: known,
                    insecure,
                    timeout,
                    connection_rate_limit: rate,
                    cipher_suites: if weak { vec!["TLS_RSA_WITH_RC4_128_SHA".into()] } else { Vec::new() },
                    allow_insecure_cipher_suites: weak,
                    curve_preferences: if insecure {
                        vec!["X25519".into(), "CurveP256".into()]
                    } else {
                        Vec::new()
                    },
                    pinned_certs,
                    handshake_first,
                    min_version: if v1_3 { TlsVersion::V1_3 } else { TlsVersion::V1_2 },
                    ocsp_peer: ocsp_peer.map(|peer| OcspPeer {
                        verify: peer.verify && (route || verify || map || known),
                        ..peer
                    }),
                }
            },
        )
        .boxed()
}

fn url() -> BoxedStrategy<ServerUrl> {
    let host = prop_oneof!["[a-z]{1,5}", Just("::1".to_string()), Just("10.0.0.1".to_string())];
    (option::of((text(), option::of("\\PC{0,5}"))), host, option::of(any::<u16>()))
        .prop_map(|(user, host, port)| {
            let (username, password) = user.map_or((None, None), |(u, p)| (Some(u), p));
            ServerUrl { scheme: "nats-route".into(), username, password, host, port }
        })
        .boxed()
}

fn compression() -> BoxedStrategy<Compression> {
    let thresholds = vec(1..1_000_000_u64, 1..4).prop_map(|mut n| {
        n.sort();
        n.into_iter().map(Duration::from_nanos).collect()
    });
    prop_oneof![
        Just(Compression::NotSupported),
        Just(Compression::Off),
        Just(Compression::Accept),
        thresholds.prop_map(Compression::S2Auto),
        Just(Compression::S2Fast),
        Just(Compression::S2Better),
        Just(Compression::S2Best),
    ]
    .boxed()
}

fn cluster() -> BoxedStrategy<Cluster> {
    let first =
        (option::of(name()), name(), option::of(port()), some_text(), some_text(), option::of(duration()));
    let second = (
        option::of(permissions(false)),
        option::of(tls(true)),
        some_text(),
        any::<bool>(),
        0..1000_u32,
        any::<bool>(),
    );
    let third = (
        0..9_u32,
        btree_set(name(), 0..3),
        compression(),
        option::of(duration()),
        option::of(1..99_u32),
        option::of(duration()),
    );
    (first, second, third, write_timeout(), vec(url(), 0..3))
        .prop_map(|(first, second, third, write_timeout, mut routes)| {
            let (name, host, port, username, password, auth_timeout) = first;
            let (permissions, tls, advertise, no_advertise, connect_retries, connect_backoff) = second;
            let (pool_size, accounts, compression, ping_interval, ping_max, write_deadline) = third;
            let accounts = if pool_size == 0 { Vec::new() } else { accounts.into_iter().collect() };
            let mut seen = BTreeSet::new();
            routes.retain(|url| seen.insert(url.to_string()));
            Cluster {
                name,
                host,
                port,
                username,
                password,
                auth_timeout,
                permissions,
                tls,
                advertise,
                no_advertise,
                connect_retries,
                connect_backoff,
                pool_size,
                accounts,
                compression,
                ping_interval,
                ping_max,
                write_deadline,
                write_timeout,
                routes,
            }
        })
        .boxed()
}

/// Users whose names differ from those with another prefix.
fn users(prefix: &'static str) -> BoxedStrategy<Vec<User>> {
    let types = btree_set(
        prop_oneof![
            Just(ConnectionType::Standard),
            Just(ConnectionType::LeafnodeWs),
            Just(ConnectionType::InProcess)
        ],
        0..3,
    );
    let rest = (option::of(permissions(true)), types, any::<bool>());
    btree_map(text(), ("\\PC{0,8}", rest), 0..3)
        .prop_map(move |users| {
            users
                .into_iter()
                .map(|(username, (password, (permissions, allowed_connection_types, proxy_required)))| User {
                    credential: Credential::Password { username: format!("{prefix}{username}"), password },
                    permissions,
                    allowed_connection_types,
                    proxy_required,
                    position: Place::default(),
                })
                .collect()
        })
        .boxed()
}

fn authorization() -> BoxedStrategy<Authorization> {
    let callout = (any::<bool>(), vec(text(), 1..3)).prop_map(|(xkey, auth_users)| AuthCallout {
        issuer: ACCOUNT_KEY.into(),
        account: "$G".into(),
        auth_users,
        xkey: xkey.then(|| CURVE_KEY.to_string()),
        allowed_accounts: Vec::new(),
    });
    let who = prop_oneof![
        (some_text(), some_text()).prop_map(|(username, password)| Authorization {
            username,
            password,
            ..Authorization::default()
        }),
        some_text().prop_map(|token| Authorization { token, ..Authorization::default() }),
        users("g").prop_map(|users| Authorization { users, users_defined: true, ..Authorization::default() }),
    ];
    (who, option::of(duration()), option::of(permissions(true)), option::of(callout), any::<bool>())
        .prop_map(|(who, timeout, default_permissions, auth_callout, proxy_required)| Authorization {
            defined: true,
            timeout,
            default_permissions,
            auth_callout,
            proxy_required,
            ..who
        })
        .boxed()
}

fn mappings() -> BoxedStrategy<Vec<Mapping>> {
    let destination = ("[a-z]{2,4}", 0..50_u8, option::of(name()));
    btree_map("[a-z]{1,3}", btree_map("[a-z]{2,4}", destination, 0..3), 0..3)
        .prop_map(|mappings| {
            let destinations = |map: BTreeMap<String, (String, u8, Option<String>)>| {
                map.into_iter()
                    .map(|(subject, (_, weight, cluster))| Destination { subject, weight, cluster })
                    .collect()
            };
            mappings
                .into_iter()
                .map(|(subject, map)| Mapping { subject, destinations: destinations(map) })
                .collect()
        })
        .boxed()
}

fn exports() -> BoxedStrategy<Vec<Export>> {
    let latency = (0..=100_u8, "[a-z]{1,4}").prop_map(|(sampling, subject)| Latency { sampling, subject });
    let response =
        prop_oneof![Just(ResponseType::Singleton), Just(ResponseType::Stream), Just(ResponseType::Chunked)];
    let service = (response, option::of(duration()), option::of(latency), any::<bool>()).prop_map(
        |(response_type, response_threshold, latency, allow_trace)| ExportKind::Service {
            response_type,
            response_threshold,
            latency,
            allow_trace,
        },
    );
    let kind = prop_oneof![Just(ExportKind::Stream), service];
    let accounts = prop_oneof![Just(Vec::new()), Just(vec!["importer".to_string()])];
    vec((subject(), kind, accounts, 0..9_u32), 0..4)
        .prop_map(|exports| {
            exports
                .into_iter()
                .map(|(subject, kind, accounts, account_token_position)| Export {
                    subject,
                    kind,
                    accounts,
                    account_token_position,
                    position: Place::default(),
                })
                .collect()
        })
        .boxed()
}

/// Two accounts, one of which imports what the other exports.
fn accounts() -> BoxedStrategy<Vec<Account>> {
    let limits = (option::of(0..9_u32), option::of(0..9_u32), option::of(0..9_u32), option::of(0..9_u32))
        .prop_map(|(max_connections, max_subscriptions, max_payload, max_leafnodes)| AccountLimits {
            max_connections,
            max_subscriptions,
            max_payload,
            max_leafnodes,
        });
    let trace =
        ("[a-z]{1,4}", 1..=100_u8).prop_map(|(destination, sampling)| MessageTrace { destination, sampling });
    let rest =
        (users("a"), option::of(permissions(true)), mappings(), limits, option::of(trace), any::<bool>());
    let import = (option::of("[a-z]{1,4}"), any::<bool>(), any::<bool>());
    (exports(), rest, import)
        .prop_map(|(exports, rest, (to, as_prefix, flag))| {
            let (users, default_permissions, mappings, limits, trace, keyed) = rest;
            let imports = exports.iter().enumerate().map(|(at, export)| Import {
                account: "exporter".into(),
                subject: export.subject.clone(),
                kind: match export.kind {
                    ExportKind::Stream if as_prefix => {
                        ImportKind::Stream { prefix: to.clone(), to: None, allow_trace: flag }
                    }
                    ExportKind::Stream => {
                        ImportKind::Stream { prefix: None, to: to.clone(), allow_trace: flag }
                    }
                    // Each under a subject of its own.
                    ExportKind::Service { .. } => {
                        ImportKind::Service { to: Some(format!("to{at}")), share: flag }
                    }
                },
                position: Place::default(),
            });
            let importer = Account {
                name: "importer".into(),
                nkey: keyed.then(|| ACCOUNT_KEY.to_string()),
                users,
                default_permissions,
                imports: imports.collect(),
                mappings,
                limits,
                trace,
                ..Account::default()
            };
            vec![Account { name: "exporter".into(), exports, ..Account::default() }, importer]
        })
        .boxed()
}

fn trust() -> BoxedStrategy<Trust> {
    let rest =
        (text(), any::<u32>(), option::of(duration()), option::of(duration()), any::<bool>(), any::<bool>());
    let resolver = (0..4, rest).prop_map(|(which, (dir, limit, interval, timeout, allow, hard))| {
        let limit = u64::from(limit);
        match which {
            0 => Resolver::Memory,
            1 => Resolver::Url("http://host:9090/jwt/v1/accounts/".into()),
            2 => Resolver::Full {
                dir,
                limit,
                interval,
                timeout,
                allow_delete: allow,
                hard_delete: allow && hard,
            },
            _ => Resolver::Cache { dir, limit, ttl: interval, timeout },
        }
    });
    (
        vec(text(), 0..3),
        any::<bool>(),
        option::of(resolver),
        option::of(tls(false)),
        any::<bool>(),
        btree_set(text(), 0..3),
        some_text(),
    )
        .prop_map(
            |(
                operators,
                keys,
                resolver,
                resolver_tls,
                preload,
                resolver_pinned_accounts,
                default_sentinel,
            )| Trust {
                operators,
                trusted_keys: if keys { vec![OPERATOR_KEY.into()] } else { Vec::new() },
                resolver,
                resolver_tls,
                resolver_preload: preload
                    .then(|| (ACCOUNT_KEY.to_string(), "a.b.c".to_string()))
                    .into_iter()
                    .collect(),
                resolver_pinned_accounts,
                default_sentinel,
            },
        )
        .boxed()
}

fn limits() -> BoxedStrategy<Limits> {
    (
        any::<u32>(),
        option::of(1..=i32::MAX as u32),
        option::of(1..=255_u8),
        1..=i32::MAX as u32,
        1..=i32::MAX as u32,
        1..=i64::MAX as u64,
    )
        .prop_map(
            |(
                max_connections,
                max_subscriptions,
                max_sub_tokens,
                max_control_line,
                max_payload,
                max_pending,
            )| Limits {
                max_connections,
                max_subscriptions,
                max_sub_tokens,
                max_control_line,
                max_payload,
                max_pending,
            },
        )
        .boxed()
}

fn logging() -> BoxedStrategy<Logging> {
    let flags = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    (flags, some_text(), 0..=i64::MAX as u64, 0..=i64::MAX as u64, some_text(), 0..=i32::MAX as u32)
        .prop_map(|(flags, log_file, log_size_limit, log_max_num, remote_syslog, max_traced_msg_len)| {
            let (debug, trace, trace_verbose, trace_headers, logtime, logtime_utc, syslog) = flags;
            Logging {
                debug,
                trace,
                trace_verbose,
                trace_headers,
                logtime,
                logtime_utc,
                log_file,
                log_size_limit,
                log_max_num,
                syslog,
                remote_syslog,
                max_traced_msg_len,
            }
        })
        .boxed()
}

fn monitoring() -> BoxedStrategy<Monitoring> {
    let host = prop_oneof!["[a-z]{1,5}", Just("::1".to_string())];
    (option::of(host), option::of(port()), option::of(port()), some_text())
        .prop_map(|(host, http_port, https_port, base_path)| Monitoring {
            host,
            http_port,
            https_port,
            base_path,
        })
        .boxed()
}

fn front() -> BoxedStrategy<Settings> {
    let first = (option::of(name()), text(), port(), some_text(), limits(), duration());
    let second = (1..=i32::MAX as u32, duration(), write_timeout(), 30..99_u64, duration(), logging());
    let third =
        (monitoring(), some_text(), some_text(), option::of(port()), any::<i64>(), option::of(tls(false)));
    (first, second, third)
        .prop_map(|(first, second, third)| {
            let (server_name, host, port, client_advertise, limits, ping_interval) = first;
            let (ping_max, write_deadline, write_timeout, lame_duck, lame_duck_grace_period, logging) =
                second;
            let (monitoring, pid_file, ports_file_dir, prof_port, prof_block_rate, tls) = third;
            Settings {
                server_name,
                host,
                port,
                client_advertise,
                limits,
                ping_interval,
                ping_max,
                write_deadline,
                write_timeout,
                lame_duck_duration: Duration::from_secs(lame_duck),
                lame_duck_grace_period,
                logging,
                monitoring,
                pid_file,
                ports_file_dir,
                prof_port,
                prof_block_rate,
                tls,
                ..Settings::default()
            }
        })
        .boxed()
}

fn ocsp_peer() -> BoxedStrategy<OcspPeer> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (flags, 1..9_u64, duration(), duration())
        .prop_map(|(flags, seconds, skew, lives)| OcspPeer {
            verify: flags.0,
            ca_timeout: Duration::from_secs(seconds),
            allowed_clockskew: skew,
            warn_only: flags.1,
            unknown_is_good: flags.2,
            allow_when_ca_unreachable: flags.3,
            cache_ttl_when_next_update_unset: lives,
        })
        .boxed()
}

fn ocsp_cache() -> BoxedStrategy<OcspCache> {
    (any::<bool>(), "[a-z]{1,5}", any::<bool>(), 1..9_u64)
        .prop_map(|(is_local, local_store, preserve_revoked, seconds)| OcspCache {
            kind: if is_local { OcspCacheKind::Local } else { OcspCacheKind::None },
            local_store,
            preserve_revoked,
            save_interval: Duration::from_secs(seconds),
        })
        .boxed()
}

/// Settings that a file can say.
pub(super) fn any_settings() -> BoxedStrategy<Settings> {
    let modes = prop_oneof![
        Just(OcspMode::Auto),
        Just(OcspMode::Always),
        Just(OcspMode::Never),
        Just(OcspMode::Must)
    ];
    let ocsp = (modes, vec(text(), 0..2)).prop_map(|(mode, urls)| Ocsp { mode, urls });
    let flags = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let names = (some_text(), some_text(), some_text());
    let maps = (
        btree_set("[a-z0-9:_]{1,6}", 0..3),
        btree_map("[a-zäA-Z ]{1,6}", text(), 0..3),
        btree_map(name(), any::<bool>(), 0..3),
    );
    let counts = (
        1..=i32::MAX as u32,
        1..=i32::MAX as u32,
        1..=i32::MAX as u32,
        option::of(1..=1024_u16),
        some_text(),
    );
    let who = (authorization(), option::of(accounts()), mappings(), trust());
    let ocsp = (option::of(ocsp), option::of(ocsp_cache()));
    (front(), ocsp, flags, names, maps, counts, cluster(), who)
        .prop_map(|(front, ocsp, flags, names, maps, counts, cluster, who)| {
            let (authorization, accounts, mappings, trust) = who;
            let mut accounts = accounts.clone();
            if authorization.username.is_some() || authorization.token.is_some() {
                for account in accounts.iter_mut().flatten() {
                    account.users.clear();
                }
            }
            Settings {
                ocsp: ocsp.0,
                ocsp_cache: ocsp.1,
                allow_non_tls: flags.0,
                proxy_protocol: flags.1,
                no_system_account: flags.2,
                disable_sublist_cache: flags.3,
                no_header_support: flags.4,
                no_fast_producer_stall: flags.5,
                trusted_proxies: if flags.6 { vec![USER_KEY.into()] } else { Vec::new() },
                system_account: names.0,
                no_auth_user: names.1,
                store_dir: names.2,
                server_tags: maps.0.into_iter().collect(),
                server_metadata: maps.1.clone(),
                feature_flags: maps.2,
                default_js_domain: maps.1,
                max_closed_clients: counts.0,
                connect_error_reports: counts.1,
                reconnect_error_reports: counts.2,
                starling: Starling { worker_threads: counts.3, data_dir: counts.4 },
                cluster,
                authorization,
                accounts_defined: accounts.is_some(),
                accounts: accounts.unwrap_or_default(),
                mappings,
                trust,
                ..front
            }
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn rendered_settings_read_back_the_same(settings in any_settings()) {
        let text = render(&settings);
        let read = Config::parse_text(&text).and_then(|config| Settings::from_config(&config));
        prop_assert!(read.is_ok(), "{}\n{:?}", text, read);
        prop_assert_eq!(read.unwrap().settings, settings, "{}", text);
    }
}

#[test]
fn a_server_with_defaults_renders_to_nothing() {
    assert_eq!(render(&Settings::default()), "");
}

#[test]
fn rendered_text_is_what_a_person_would_write() {
    let text = "server_name: n1\nport: 5222\nmax_payload: 2MB\ncluster {\n  name: C\n  port: 6222\n  routes: [\"nats-route://h:6222\"]\n}\nauthorization {\n  users: [\n    {\n      user: a\n      password: b\n    },\n  ]\n}\n";
    let settings = Settings::from_config(&Config::parse_text(text).unwrap()).unwrap().settings;
    assert_eq!(render(&settings), text.replace("2MB", "2097152"));
}
