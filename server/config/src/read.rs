//! From a tree to settings: the top level's keys. Blocks are read beside their types.

use std::time::Duration;

use crate::address::{ServerUrl, parse_advertise};
use crate::cluster::{self, write_timeout};
use crate::duration;
use crate::error::{Error, Problem};
use crate::grammar::{Config, Value};
use crate::ocsp;
use crate::reader::{Field, Reader, assign};
use crate::settings::{Logging, Settings, Starling};
use crate::tls::{self, TlsContext};
use crate::unsupported::{self, Feature};
use crate::{accounts, auth, trust};

/// Settings and what was doubtful on the way to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The settings.
    pub settings: Settings,
    /// What a user should be told, in the order found.
    pub warnings: Vec<Problem>,
}

/// Most worker threads that may be asked for.
const WORKER_THREADS_MAX: i64 = 1024;
/// Shortest lame duck mode.
const LAME_DUCK_DURATION_MIN: Duration = Duration::from_secs(30);
const INT32_MAX: i64 = i32::MAX as i64;

/// Every key of the top level.
pub(crate) const KEYS: &[&str] = &[
    "listen",
    "client_advertise",
    "port",
    "server_name",
    "host",
    "net",
    "debug",
    "trace",
    "trace_verbose",
    "trace_headers",
    "logtime",
    "logtime_utc",
    "mappings",
    "maps",
    "disable_sublist_cache",
    "no_sublist_cache",
    "accounts",
    "default_sentinel",
    "authorization",
    "http",
    "https",
    "http_port",
    "monitor_port",
    "https_port",
    "http_base_path",
    "cluster",
    "gateway",
    "leaf",
    "leafnodes",
    "store_dir",
    "storedir",
    "jetstream",
    "logfile",
    "log_file",
    "logfile_size_limit",
    "log_size_limit",
    "logfile_max_num",
    "log_max_num",
    "syslog",
    "remote_syslog",
    "pidfile",
    "pid_file",
    "ports_file_dir",
    "prof_port",
    "prof_block_rate",
    "max_control_line",
    "max_payload",
    "max_pending",
    "proxy_protocol",
    "max_connections",
    "max_conn",
    "max_traced_msg_len",
    "max_subscriptions",
    "max_subs",
    "max_sub_tokens",
    "max_subscription_tokens",
    "ping_interval",
    "ping_max",
    "tls",
    "ocsp",
    "allow_non_tls",
    "write_deadline",
    "write_timeout",
    "lame_duck_duration",
    "lame_duck_grace_period",
    "operator",
    "operators",
    "roots",
    "root",
    "root_operators",
    "root_operator",
    "resolver",
    "account_resolver",
    "accounts_resolver",
    "resolver_tls",
    "resolver_preload",
    "resolver_pinned_accounts",
    "no_auth_user",
    "system_account",
    "system",
    "no_system_account",
    "no_system",
    "no_sys_acc",
    "no_header_support",
    "trusted",
    "trusted_keys",
    "connect_error_reports",
    "reconnect_error_reports",
    "websocket",
    "ws",
    "mqtt",
    "server_tags",
    "server_metadata",
    "feature_flags",
    "default_js_domain",
    "ocsp_cache",
    "no_fast_producer_stall",
    "max_closed_clients",
    "proxies",
    "starling",
];

impl Settings {
    /// Reads a configuration. Contradictions that flags may still resolve are not looked for: call
    /// [`Settings::validate`] once the flags are applied.
    ///
    /// # Errors
    /// [`Error::Invalid`] with everything that is wrong.
    pub fn from_config(config: &Config) -> Result<Checked, Error> {
        let mut reader = Reader { problems: Vec::new(), warnings: config.warnings.clone() };
        let mut settings = Settings::default();
        if config.root.is_empty() {
            reader.warnings.push(Problem::anywhere("config has no values or is empty"));
        }
        let mut seen: Vec<(&str, String)> = Vec::new();
        for field in reader.fields(&config.root) {
            read_field(&field, &mut settings, &mut reader);
            note_contradiction(&field, &mut seen, &mut reader);
        }
        check_accounts(config, &settings, &mut reader);
        let Reader { problems, warnings } = reader;
        if problems.is_empty() {
            Ok(Checked { settings, warnings })
        } else {
            Err(Error::Invalid { problems, warnings })
        }
    }

    /// Checks what only shows when file and flags are together.
    ///
    /// # Errors
    /// [`Error::Invalid`] with nats-server's words for each contradiction.
    pub fn validate(&self) -> Result<(), Error> {
        let problems: Vec<Problem> = self.contradictions().into_iter().map(Problem::anywhere).collect();
        if problems.is_empty() { Ok(()) } else { Err(Error::Invalid { problems, warnings: Vec::new() }) }
    }

    fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.lame_duck_grace_period >= self.lame_duck_duration {
            found.push(format!(
                "lame duck grace period ({}) should be strictly lower than lame duck duration ({})",
                duration::render(self.lame_duck_grace_period),
                duration::render(self.lame_duck_duration)
            ));
        }
        if u64::from(self.limits.max_payload) > self.limits.max_pending {
            found.push(format!(
                "max_payload ({}) cannot be higher than max_pending ({})",
                self.limits.max_payload, self.limits.max_pending
            ));
        }
        for (option, advertised) in
            [("client_advertise", &self.client_advertise), ("cluster.advertise", &self.cluster.advertise)]
        {
            if let Some(Err(reason)) = advertised.as_deref().map(|text| parse_advertise(text, 0)) {
                found.push(format!("invalid {option}: {reason}"));
            }
        }
        self.trust_contradictions(&mut found);
        if let Some(name) = &self.no_auth_user {
            if !self.trust.operators.is_empty() {
                found.push("no_auth_user not compatible with Trusted Operator".into());
            } else if self.users().next().is_none() {
                found.push(format!("no_auth_user: {name:?} present, but users/nkeys are not defined"));
            } else if !self.users().any(|(_, user)| user.name() == name) {
                found.push(format!(
                    "no_auth_user: {name:?} not present as user or nkey in authorization block or account configuration"
                ));
            }
        }
        if self.cluster.pool_size == 0 && !self.cluster.accounts.is_empty() {
            found.push("pool_size cannot be negative if pinned accounts are specified".into());
        }
        if self.monitoring.http_port.is_some() && self.monitoring.https_port.is_some() {
            found.push("can't specify both HTTP and HTTPs ports: keep http_port or https_port".into());
        }
        if self.monitoring.https_port.is_some() && self.tls.is_none() {
            found.push("TLS cert and key required for HTTPS: add a tls block".into());
        }
        if self.server_name.as_ref().is_some_and(|name| name.contains(' ')) {
            found.push("server name cannot contain spaces".into());
        }
        if self.cluster.name.as_ref().is_some_and(|name| name.contains(' ')) {
            found.push("cluster name cannot contain spaces".into());
        }
        found
    }

    fn trust_contradictions(&self, found: &mut Vec<String>) {
        let trust = &self.trust;
        if trust.operators.is_empty() {
            if trust.default_sentinel.is_some() {
                found.push("default sentinel requires operators and accounts".into());
            }
            return;
        }
        if !self.accounts.is_empty() {
            found.push("operators do not allow Accounts to be configured directly".into());
        }
        if self.users().next().is_some() {
            found.push("operators do not allow users to be configured directly".into());
        }
        if !trust.trusted_keys.is_empty() {
            found.push("conflicting options for 'TrustedKeys' and 'TrustedOperators'".into());
        }
    }
}

/// `listen` beside `port`, and the like: the later one wins, which is worth a word.
fn note_contradiction(field: &Field<'_>, seen: &mut Vec<(&str, String)>, reader: &mut Reader) {
    const SAME: &[(&str, &[&str])] = &[
        ("port", &["listen", "port"]),
        ("host", &["listen", "host", "net"]),
        ("monitoring port", &["http", "http_port", "monitor_port"]),
        ("log file", &["logfile", "log_file"]),
        ("system account", &["system_account", "system"]),
    ];
    for (what, keys) in SAME {
        if !keys.contains(&field.key.as_str()) {
            continue;
        }
        if let Some((_, earlier)) =
            seen.iter().find(|(seen_what, key)| seen_what == what && *key != field.key)
        {
            reader.warn(
                field.position(),
                format!(
                    "{:?} sets the {what} again, which {earlier:?} set before: this one counts",
                    field.written
                ),
            );
        }
        seen.push((what, field.key.clone()));
    }
}

fn read_field(field: &Field<'_>, settings: &mut Settings, reader: &mut Reader) {
    let handled = read_listeners(field, settings, reader)
        || read_logging(field, &mut settings.logging, reader)
        || read_limits(field, settings, reader)
        || read_authority(field, settings, reader)
        || read_identity(field, settings, reader)
        || read_rest(field, settings, reader);
    if !handled {
        reader.unknown(field, KEYS);
    }
}

fn read_listeners(field: &Field<'_>, settings: &mut Settings, reader: &mut Reader) -> bool {
    let default = Settings::default();
    let host_or = |host: String| if host.is_empty() { default.host.clone() } else { host };
    let monitoring = &mut settings.monitoring;
    match field.key.as_str() {
        "listen" => {
            if let Some((host, port)) = field.listen(reader) {
                settings.host = host_or(host);
                settings.port = port.unwrap_or(default.port);
            }
        }
        "port" => assign(&mut settings.port, field.port(reader).map(|port| port.unwrap_or(default.port))),
        "host" | "net" => assign(&mut settings.host, field.string(reader).map(host_or)),
        "client_advertise" => assign(&mut settings.client_advertise, field.optional(reader)),
        "http" => {
            if let Some((host, port)) = field.listen(reader) {
                monitoring.host = Some(host).filter(|h| !h.is_empty());
                monitoring.http_port = port;
            }
        }
        "https" => {
            if let Some((host, port)) = field.listen(reader) {
                monitoring.host = Some(host).filter(|h| !h.is_empty());
                monitoring.https_port = port;
            }
        }
        "http_port" | "monitor_port" => assign(&mut monitoring.http_port, field.port(reader)),
        "https_port" => assign(&mut monitoring.https_port, field.port(reader)),
        "http_base_path" => assign(&mut monitoring.base_path, field.optional(reader)),
        "prof_port" => assign(&mut settings.prof_port, field.port(reader)),
        "prof_block_rate" => assign(&mut settings.prof_block_rate, field.integer(reader)),
        "tls" => settings.tls = tls::read(field, TlsContext::Client, reader),
        "allow_non_tls" => assign(&mut settings.allow_non_tls, field.boolean(reader)),
        "ocsp" => settings.ocsp = ocsp::stapling(field, reader),
        "ocsp_cache" => settings.ocsp_cache = ocsp::cache(field, reader),
        "proxy_protocol" => assign(&mut settings.proxy_protocol, field.boolean(reader)),
        "proxies" => assign(&mut settings.trusted_proxies, proxies(field, reader)),
        "cluster" => cluster::read(field, &mut settings.cluster, reader),
        _ => return false,
    }
    true
}

fn read_logging(field: &Field<'_>, logging: &mut Logging, reader: &mut Reader) -> bool {
    match field.key.as_str() {
        "debug" => assign(&mut logging.debug, field.boolean(reader)),
        "trace" => assign(&mut logging.trace, field.boolean(reader)),
        "trace_verbose" => {
            if let Some(on) = field.boolean(reader) {
                (logging.trace_verbose, logging.trace) = (on, on);
            }
        }
        "trace_headers" => {
            if let Some(on) = field.boolean(reader) {
                (logging.trace_headers, logging.trace) = (on, on);
            }
        }
        "logtime" => assign(&mut logging.logtime, field.boolean(reader)),
        "logtime_utc" => assign(&mut logging.logtime_utc, field.boolean(reader)),
        "logfile" | "log_file" => assign(&mut logging.log_file, field.optional(reader)),
        "logfile_size_limit" | "log_size_limit" => {
            assign(&mut logging.log_size_limit, field.within(reader, 0, i64::MAX))
        }
        "logfile_max_num" | "log_max_num" => {
            assign(&mut logging.log_max_num, field.within(reader, 0, i64::MAX))
        }
        "syslog" => assign(&mut logging.syslog, field.boolean(reader)),
        "remote_syslog" => assign(&mut logging.remote_syslog, field.optional(reader)),
        "max_traced_msg_len" => assign(&mut logging.max_traced_msg_len, field.within(reader, 0, INT32_MAX)),
        _ => return false,
    }
    true
}

fn read_limits(field: &Field<'_>, settings: &mut Settings, reader: &mut Reader) -> bool {
    let default = Settings::default();
    let limits = &mut settings.limits;
    match field.key.as_str() {
        "max_control_line" => {
            assign(
                &mut limits.max_control_line,
                field.count_or(reader, INT32_MAX, default.limits.max_control_line),
            );
        }
        "max_payload" => max_payload(field, settings, reader),
        "max_pending" => {
            assign(&mut limits.max_pending, field.count_or(reader, i64::MAX, default.limits.max_pending))
        }
        "max_connections" | "max_conn" => match field.integer(reader) {
            Some(number) if number <= 0 => limits.max_connections = 0,
            _ => assign(&mut limits.max_connections, field.within(reader, 1, i64::from(u32::MAX))),
        },
        "max_subscriptions" | "max_subs" => match field.integer(reader) {
            Some(number) if number <= 0 => limits.max_subscriptions = None,
            _ => limits.max_subscriptions = field.within(reader, 1, INT32_MAX),
        },
        "max_sub_tokens" | "max_subscription_tokens" => limits.max_sub_tokens = field.within(reader, 1, 255),
        "ping_interval" => {
            if let Some(interval) = field.duration(reader).filter(|i| !i.is_zero()) {
                settings.ping_interval = interval;
            }
        }
        "ping_max" => assign(&mut settings.ping_max, field.count_or(reader, INT32_MAX, default.ping_max)),
        "write_deadline" => {
            if let Some(deadline) = field.duration(reader).filter(|d| !d.is_zero()) {
                settings.write_deadline = deadline;
            }
        }
        "write_timeout" => assign(&mut settings.write_timeout, write_timeout(field, reader)),
        "lame_duck_duration" => {
            if let Some(duration_) = field.duration_text(reader) {
                if duration_ < LAME_DUCK_DURATION_MIN {
                    let shown = duration::render(duration_);
                    field.problem(
                        reader,
                        format!("invalid lame_duck_duration of {shown}, minimum is 30 seconds"),
                    );
                }
                settings.lame_duck_duration = duration_;
            }
        }
        "lame_duck_grace_period" => {
            if let Some(period) = field.duration_text(reader).filter(|p| !p.is_zero()) {
                settings.lame_duck_grace_period = period;
            }
        }
        "max_closed_clients" => {
            assign(
                &mut settings.max_closed_clients,
                field.count_or(reader, INT32_MAX, default.max_closed_clients),
            );
        }
        "connect_error_reports" => {
            let read = field.count_or(reader, INT32_MAX, default.connect_error_reports);
            assign(&mut settings.connect_error_reports, read);
        }
        "reconnect_error_reports" => {
            let read = field.count_or(reader, INT32_MAX, default.reconnect_error_reports);
            assign(&mut settings.reconnect_error_reports, read);
        }
        _ => return false,
    }
    true
}

/// nats-server warns of payloads above this.
const MAX_PAYLOAD_DOUBTFUL: u32 = 8 * 1024 * 1024;

fn max_payload(field: &Field<'_>, settings: &mut Settings, reader: &mut Reader) {
    let limits = &mut settings.limits;
    match field.integer(reader) {
        Some(-1) => {
            reader.warn(field.position(), "max_payload of -1 is read as the largest possible, 2147483647");
            limits.max_payload = i32::MAX.unsigned_abs();
        }
        _ => assign(
            &mut limits.max_payload,
            field.count_or(reader, INT32_MAX, crate::settings::Limits::default().max_payload),
        ),
    }
    if limits.max_payload > MAX_PAYLOAD_DOUBTFUL {
        reader.warn(
            field.position(),
            "Maximum payloads over 8.00 MB are generally discouraged and could lead to poor performance",
        );
    }
}

fn read_authority(field: &Field<'_>, settings: &mut Settings, reader: &mut Reader) -> bool {
    let trust = &mut settings.trust;
    match field.key.as_str() {
        "authorization" => {
            if let Some(read) = auth::read(field, reader) {
                auth::check(field, &read, reader);
                settings.authorization = read;
            }
        }
        "accounts" => {
            settings.accounts_defined = true;
            assign(&mut settings.accounts, accounts::read(field, reader));
        }
        "mappings" | "maps" => assign(&mut settings.mappings, accounts::mappings(field, reader)),
        "no_auth_user" => assign(&mut settings.no_auth_user, field.optional(reader)),
        "system_account" | "system" => match &field.node.value {
            Value::String(_) => assign(&mut settings.system_account, field.optional(reader)),
            _ => field.problem(reader, "system account name must be a string"),
        },
        "no_system_account" | "no_system" | "no_sys_acc" => {
            assign(&mut settings.no_system_account, field.boolean(reader))
        }
        "default_sentinel" => assign(&mut trust.default_sentinel, field.optional(reader)),
        "operator" | "operators" | "roots" | "root" | "root_operators" | "root_operator" => {
            assign(&mut trust.operators, field.strings(reader));
        }
        "resolver" | "account_resolver" | "accounts_resolver" => {
            trust.resolver = trust::read_resolver(field, reader)
        }
        "resolver_tls" => trust.resolver_tls = tls::read(field, TlsContext::Client, reader),
        "resolver_preload" => trust::read_preload(field, trust, reader),
        "resolver_pinned_accounts" => {
            assign(
                &mut trust.resolver_pinned_accounts,
                field
                    .strings(reader)
                    .map(|names| names.into_iter().collect::<std::collections::BTreeSet<_>>()),
            );
        }
        "trusted" | "trusted_keys" => trust::read_trusted_keys(field, trust, reader),
        _ => return false,
    }
    true
}

fn read_identity(field: &Field<'_>, settings: &mut Settings, reader: &mut Reader) -> bool {
    match field.key.as_str() {
        "server_name" => {
            if let Some(name) = field.optional(reader) {
                if name.as_ref().is_some_and(|name| name.contains(' ')) {
                    field.problem(reader, "server name cannot contain spaces");
                }
                settings.server_name = name;
            }
        }
        "pidfile" | "pid_file" => assign(&mut settings.pid_file, field.optional(reader)),
        "ports_file_dir" => assign(&mut settings.ports_file_dir, field.optional(reader)),
        "server_tags" => {
            for tag in field.strings(reader).unwrap_or_default() {
                add_tag(&mut settings.server_tags, &tag);
            }
        }
        "server_metadata" => assign(&mut settings.server_metadata, field.string_map(reader)),
        "feature_flags" => {
            if let Some(map) = field.map(reader) {
                for part in map {
                    match part.node.value {
                        Value::Boolean(on) => {
                            settings.feature_flags.insert(part.key.clone(), on);
                        }
                        ref other => reader.problem(
                            &part.node.position,
                            format!(
                                "error parsing feature flag {:?}: expected a boolean, found {}",
                                part.key,
                                other.kind()
                            ),
                        ),
                    }
                }
            }
        }
        _ => return false,
    }
    true
}

/// Tags are lower case, without blanks around them, and none comes twice.
pub(crate) fn add_tag(tags: &mut Vec<String>, tag: &str) {
    let tag = tag.trim().to_lowercase();
    if !tag.is_empty() && !tags.contains(&tag) {
        tags.push(tag);
    }
}

fn read_rest(field: &Field<'_>, settings: &mut Settings, reader: &mut Reader) -> bool {
    if let Some(feature) = Feature::of_key(&field.key) {
        unsupported::block(field, feature, reader);
        return true;
    }
    match field.key.as_str() {
        "disable_sublist_cache" | "no_sublist_cache" => {
            assign(&mut settings.disable_sublist_cache, field.boolean(reader))
        }
        "no_header_support" => assign(&mut settings.no_header_support, field.boolean(reader)),
        "no_fast_producer_stall" => assign(&mut settings.no_fast_producer_stall, field.boolean(reader)),
        "store_dir" | "storedir" => assign(&mut settings.store_dir, field.optional(reader)),
        "default_js_domain" => assign(&mut settings.default_js_domain, field.string_map(reader)),
        "starling" => starling(field, &mut settings.starling, reader),
        _ => return false,
    }
    true
}

fn starling(block: &Field<'_>, starling: &mut Starling, reader: &mut Reader) {
    let Some(map) = block.map(reader) else { return };
    for field in reader.fields(map) {
        match field.key.as_str() {
            "worker_threads" => starling.worker_threads = field.within(reader, 1, WORKER_THREADS_MAX),
            "data_dir" => assign(&mut starling.data_dir, field.optional(reader)),
            _ => reader.unknown(&field, &["worker_threads", "data_dir"]),
        }
    }
}

/// `proxies { trusted: [{key: …}] }`
fn proxies(block: &Field<'_>, reader: &mut Reader) -> Option<Vec<String>> {
    let map = block.map(reader)?;
    let mut keys = Vec::new();
    for field in reader.fields(map) {
        if field.key != "trusted" {
            reader.unknown(&field, &["trusted"]);
            continue;
        }
        for node in field.array(reader)? {
            let Value::Map(map) = &node.value else {
                reader.problem(
                    &node.position,
                    format!(
                        "expected proxies' trusted entry to be a map/struct, found {}",
                        node.value.kind()
                    ),
                );
                continue;
            };
            for part in reader.fields(map) {
                match part.key.as_str() {
                    "key" | "public_key" => {
                        let key = part.string(reader)?;
                        if crate::nkey::public_key_kind(&key).is_none() {
                            part.problem(reader, format!("invalid proxy key {key:?}"));
                        }
                        keys.push(key);
                    }
                    _ => reader.unknown(&part, &["key", "public_key"]),
                }
            }
        }
    }
    Some(keys)
}

/// What blocks say of each other: users are unique, and one user for all excludes accounts with users.
fn check_accounts(config: &Config, settings: &Settings, reader: &mut Reader) {
    let mut names = std::collections::BTreeSet::new();
    for (_, user) in settings.users() {
        if !names.insert(user.name()) {
            let kind = match user.credential {
                auth::Credential::Nkey(_) => "nkey",
                auth::Credential::Password { .. } => "user",
            };
            let message = format!("Duplicate {kind} {:?} detected", user.name());
            reader.problems.push(Problem { position: user.position.0.clone(), message });
        }
    }
    let in_accounts = settings.accounts.iter().any(|account| !account.users.is_empty());
    let block = config.root.iter().find(|entry| entry.key.eq_ignore_ascii_case("accounts"));
    if let Some(block) = block.filter(|_| in_accounts) {
        let position = &block.node.position;
        if settings.authorization.username.is_some() {
            reader.problem(position, "Can not have a single user/pass and accounts");
        } else if settings.authorization.token.is_some() {
            reader.problem(position, "Can not have a token and accounts");
        }
    }
    if let Some(callout) = &settings.authorization.auth_callout {
        for name in &callout.allowed_accounts {
            if !settings.accounts.iter().any(|account| account.name == *name) {
                reader.problems.push(Problem::anywhere(format!(
                    "auth_callout allowed account {name:?} not found in configured accounts"
                )));
            }
        }
    }
    if settings.cluster.port.is_none() && !settings.cluster.routes.is_empty() {
        let message =
            "the cluster block lists routes but no port: no route is made; give it one, or use --cluster";
        reader.warnings.push(Problem::anywhere(message));
    }
    if let Some(url) = settings.cluster.routes.iter().find(|url: &&ServerUrl| url.port.is_none()) {
        reader.warnings.push(Problem::anywhere(format!(
            "route {} names no port: no connection can be made; add one, as in {}:6222",
            url.redacted(),
            url.redacted()
        )));
    }
}
