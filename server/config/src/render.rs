//! From settings to text: a nats.conf that reads back to the same settings. Only what differs from its
//! default is written.

use crate::accounts::mappings_tree;
use crate::grammar::{Config, Value};
use crate::settings::Settings;
use crate::tree::Tree;

/// The settings as a nats.conf. Secrets are written as given.
///
/// `Settings::from_config(&Config::parse_text(&render(s))?)?.settings == s` for every `s` that a file can
/// say.
pub fn render(settings: &Settings) -> String {
    to_config(settings).render()
}

/// The settings as a tree, e.g. to merge another one into it.
pub fn to_config(settings: &Settings) -> Config {
    let mut tree = Tree::default();
    put_listeners(settings, &mut tree);
    put_limits(settings, &mut tree);
    put_logging(settings, &mut tree);
    put_blocks(settings, &mut tree);
    Config { root: tree.into_map(), warnings: Vec::new() }
}

fn put_listeners(settings: &Settings, tree: &mut Tree) {
    let default = Settings::default();
    tree.optional("server_name", &settings.server_name);
    if settings.host != default.host {
        tree.string("host", &settings.host);
    }
    tree.port("port", Some(settings.port).filter(|port| *port != default.port));
    tree.optional("client_advertise", &settings.client_advertise);
    let monitoring = &settings.monitoring;
    for (listen, key, port) in
        [("http", "http_port", monitoring.http_port), ("https", "https_port", monitoring.https_port)]
    {
        match (&monitoring.host, port) {
            (Some(host), Some(port)) => {
                tree.string(listen, &crate::address::join_host_port(host, port.written()))
            }
            (_, port) => tree.port(key, port),
        }
    }
    if let (Some(host), None, None) = (&monitoring.host, monitoring.http_port, monitoring.https_port) {
        tree.string("http", &crate::address::join_host_port(host, 0));
    }
    tree.optional("http_base_path", &monitoring.base_path);
    tree.optional("pid_file", &settings.pid_file);
    tree.optional("ports_file_dir", &settings.ports_file_dir);
    tree.port("prof_port", settings.prof_port);
    tree.integer("prof_block_rate", settings.prof_block_rate, 0);
}

fn put_limits(settings: &Settings, tree: &mut Tree) {
    let default = Settings::default();
    let limits = &settings.limits;
    tree.integer("max_connections", limits.max_connections, default.limits.max_connections);
    tree.integer("max_subscriptions", limits.max_subscriptions.unwrap_or(0), 0);
    tree.integer("max_sub_tokens", limits.max_sub_tokens.unwrap_or(0), 0);
    tree.integer("max_control_line", limits.max_control_line, default.limits.max_control_line);
    tree.integer("max_payload", limits.max_payload, default.limits.max_payload);
    tree.integer("max_pending", limits.max_pending, default.limits.max_pending as i64);
    tree.duration("ping_interval", settings.ping_interval, default.ping_interval);
    tree.integer("ping_max", settings.ping_max, default.ping_max);
    tree.duration("write_deadline", settings.write_deadline, default.write_deadline);
    if settings.write_timeout != default.write_timeout {
        tree.string("write_timeout", settings.write_timeout.name());
    }
    tree.duration("lame_duck_duration", settings.lame_duck_duration, default.lame_duck_duration);
    tree.duration("lame_duck_grace_period", settings.lame_duck_grace_period, default.lame_duck_grace_period);
    tree.integer("max_closed_clients", settings.max_closed_clients, default.max_closed_clients);
    tree.integer("connect_error_reports", settings.connect_error_reports, default.connect_error_reports);
    tree.integer(
        "reconnect_error_reports",
        settings.reconnect_error_reports,
        default.reconnect_error_reports,
    );
}

fn put_logging(settings: &Settings, tree: &mut Tree) {
    let logging = &settings.logging;
    // Both `trace_verbose` and `trace_headers` set `trace`, too: the plain one comes last.
    tree.boolean("debug", logging.debug, false);
    tree.boolean("trace_verbose", logging.trace_verbose, false);
    tree.boolean("trace_headers", logging.trace_headers, false);
    tree.boolean("trace", logging.trace, logging.trace_verbose || logging.trace_headers);
    tree.boolean("logtime", logging.logtime, true);
    tree.boolean("logtime_utc", logging.logtime_utc, false);
    tree.optional("log_file", &logging.log_file);
    tree.integer("log_size_limit", logging.log_size_limit, 0);
    tree.integer("log_max_num", logging.log_max_num, 0);
    tree.boolean("syslog", logging.syslog, false);
    tree.optional("remote_syslog", &logging.remote_syslog);
    tree.integer("max_traced_msg_len", logging.max_traced_msg_len, 0);
}

fn put_blocks(settings: &Settings, tree: &mut Tree) {
    if let Some(tls) = &settings.tls {
        tree.tree_even_empty("tls", tls.tree());
    }
    tree.boolean("allow_non_tls", settings.allow_non_tls, false);
    if let Some(ocsp) = &settings.ocsp {
        let mut inner = Tree::default();
        inner.string("mode", ocsp.mode.name());
        inner.strings("urls", &ocsp.urls);
        tree.tree("ocsp", inner);
    }
    if let Some(cache) = &settings.ocsp_cache {
        tree.tree("ocsp_cache", cache.tree());
    }
    tree.boolean("proxy_protocol", settings.proxy_protocol, false);
    let proxies = settings.trusted_proxies.iter().map(|key| {
        let mut inner = Tree::default();
        inner.string("key", key);
        inner
    });
    let mut trusted = Tree::default();
    trusted.trees("trusted", proxies.collect());
    tree.tree("proxies", trusted);
    tree.tree("cluster", settings.cluster.tree());
    if settings.authorization.defined {
        tree.tree_even_empty("authorization", settings.authorization.tree());
    }
    let mut accounts = Tree::default();
    for account in &settings.accounts {
        accounts.tree_even_empty(&account.name, account.tree());
    }
    if settings.accounts_defined {
        tree.tree_even_empty("accounts", accounts);
    }
    tree.tree("mappings", mappings_tree(&settings.mappings));
    tree.optional("system_account", &settings.system_account);
    tree.boolean("no_system_account", settings.no_system_account, false);
    tree.optional("no_auth_user", &settings.no_auth_user);
    settings.trust.put(tree);
    tree.boolean("disable_sublist_cache", settings.disable_sublist_cache, false);
    tree.boolean("no_header_support", settings.no_header_support, false);
    tree.boolean("no_fast_producer_stall", settings.no_fast_producer_stall, false);
    tree.strings("server_tags", &settings.server_tags);
    tree.string_map("server_metadata", &settings.server_metadata);
    let mut flags = Tree::default();
    for (name, on) in &settings.feature_flags {
        flags.put(name, Value::Boolean(*on));
    }
    tree.tree("feature_flags", flags);
    tree.optional("store_dir", &settings.store_dir);
    tree.string_map("default_js_domain", &settings.default_js_domain);
    let mut starling = Tree::default();
    starling.integer("worker_threads", settings.starling.worker_threads.unwrap_or(0), 0);
    starling.optional("data_dir", &settings.starling.data_dir);
    tree.tree("starling", starling);
}
