//! What a new configuration changes, and whether a running server may take it on. Owns that judgement,
//! which broker (on SIGHUP) and operator (reload or rolling restart) share; changes nothing itself.
//!
//! The rules are nats-server's (`reload.go`, 2.15.2). It refuses a reload as a whole if one option asks for
//! a restart; so should callers.

use std::collections::BTreeMap;

use crate::address::Port;
use crate::auth::{Authorization, User};
use crate::cluster::Cluster;
use crate::duration;
use crate::settings::{Limits, Logging, Monitoring, Settings};
use crate::tls::{HandshakeFirst, Tls};
use crate::trust::Trust;

/// What it takes for a change to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A running server takes it on.
    Reload,
    /// Only a server that starts anew does.
    Restart,
}

/// What a reload has to touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// Where logs go, and how their lines look.
    Logging,
    /// How much is logged: debug and trace.
    TraceLevel,
    /// Users, tokens, accounts, permissions, mappings: clients that no longer fit are closed.
    Authorization,
    /// Clients' TLS: counts for new connections; pinned certificates for those that are there, too.
    Tls,
    /// Bounds on clients, pings, deadlines.
    Limits,
    /// The cluster block save its routes and TLS.
    Cluster,
    /// Subjects that cross routes.
    ClusterPermissions,
    /// Routes' TLS.
    ClusterTls,
    /// Which servers to connect to.
    Routes,
    /// Files with the process's id and ports.
    Files,
    /// What the server tells of itself: advertised address, tags, metadata.
    Identity,
    /// Nothing but numbers read where they are needed.
    Other,
}

/// One option that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The option as in nats.conf, e.g. `max_payload` or `cluster.pool_size`.
    pub option: &'static str,
    /// What it takes.
    pub effect: Effect,
    /// What a reload has to touch.
    pub area: Area,
    /// A line for the log. For a reload nats-server's, as in `Reloaded: max_payload = 1024`; for a restart
    /// its refusal, as in `config reload not supported for port: old=4222, new=4223`. No secrets.
    pub line: String,
}

/// All options that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In a fixed order: as the settings' fields are.
    pub list: Vec<Change>,
}

impl Changes {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True if a running server cannot take all of it on.
    pub fn needs_restart(&self) -> bool {
        self.refusals().next().is_some()
    }

    /// Those that a running server cannot take on.
    pub fn refusals(&self) -> impl Iterator<Item = &Change> {
        self.list.iter().filter(|change| change.effect == Effect::Restart)
    }

    /// True if a reload has to touch this.
    pub fn touches(&self, area: Area) -> bool {
        self.list.iter().any(|change| change.area == area)
    }
}

/// Compares settings, flags applied to both. Order does not count where it means nothing: users, accounts,
/// routes, keys.
pub fn diff(old: &Settings, new: &Settings) -> Changes {
    let mut differ = Differ::default();
    differ.identity(old, new);
    differ.limits(old, new);
    differ.logging(&old.logging, &new.logging);
    differ.monitoring(&old.monitoring, &new.monitoring);
    differ.tls(old.tls.as_ref(), new.tls.as_ref());
    differ.authorization(old, new);
    differ.trust(&old.trust, &new.trust);
    differ.cluster(&old.cluster, &new.cluster);
    differ.rest(old, new);
    Changes { list: differ.list }
}

#[derive(Default)]
struct Differ {
    list: Vec<Change>,
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

fn port_text(port: &Option<Port>) -> String {
    port.map_or(0, Port::written).to_string()
}

impl Differ {
    /// An option whose change a running server takes on; `line` without its `Reloaded: `.
    fn reload<T: PartialEq>(
        &mut self,
        area: Area,
        option: &'static str,
        old: &T,
        new: &T,
        line: impl FnOnce(&T) -> String,
    ) {
        if old != new {
            self.list.push(Change {
                option,
                effect: Effect::Reload,
                area,
                line: format!("Reloaded: {}", line(new)),
            });
        }
    }

    /// The same, told as `option = value`.
    fn value<T: PartialEq>(
        &mut self,
        area: Area,
        option: &'static str,
        old: &T,
        new: &T,
        show: impl FnOnce(&T) -> String,
    ) {
        self.reload(area, option, old, new, |new| format!("{option} = {}", show(new)));
    }

    /// An option whose change asks for a restart.
    fn fixed<T: PartialEq>(
        &mut self,
        area: Area,
        option: &'static str,
        old: &T,
        new: &T,
        show: impl Fn(&T) -> String,
    ) {
        if old != new {
            let line =
                format!("config reload not supported for {option}: old={}, new={}", show(old), show(new));
            self.list.push(Change { option, effect: Effect::Restart, area, line });
        }
    }

    /// The same for what is no one's business, or too long for a line.
    fn fixed_untold<T: PartialEq>(&mut self, area: Area, option: &'static str, old: &T, new: &T) {
        if old != new {
            let line = format!("config reload not supported for {option}");
            self.list.push(Change { option, effect: Effect::Restart, area, line });
        }
    }

    fn identity(&mut self, old: &Settings, new: &Settings) {
        self.fixed(Area::Identity, "server_name", &old.server_name, &new.server_name, text);
        self.fixed(Area::Other, "host", &old.host, &new.host, String::clone);
        // A server on a random port keeps the one it got.
        if new.port != Port::Random {
            self.fixed(Area::Other, "port", &old.port, &new.port, |port| port.written().to_string());
        }
        self.value(Area::Identity, "client_advertise", &old.client_advertise, &new.client_advertise, text);
        self.reload(Area::Identity, "server_tags", &old.server_tags, &new.server_tags, |_| "tags".into());
        self.reload(Area::Identity, "server_metadata", &old.server_metadata, &new.server_metadata, |_| {
            "metadata".into()
        });
        self.value(Area::Files, "pid_file", &old.pid_file, &new.pid_file, text);
        self.value(Area::Files, "ports_file_dir", &old.ports_file_dir, &new.ports_file_dir, text);
    }

    fn limits(&mut self, old: &Settings, new: &Settings) {
        let Limits {
            max_connections,
            max_subscriptions,
            max_sub_tokens,
            max_control_line,
            max_payload,
            max_pending,
        } = &old.limits;
        let to = &new.limits;
        let area = Area::Limits;
        self.value(area, "max_connections", max_connections, &to.max_connections, u32::to_string);
        self.fixed(area, "max_subscriptions", max_subscriptions, &to.max_subscriptions, |n| {
            n.unwrap_or(0).to_string()
        });
        self.fixed(area, "max_sub_tokens", max_sub_tokens, &to.max_sub_tokens, |n| {
            n.unwrap_or(0).to_string()
        });
        self.value(area, "max_control_line", max_control_line, &to.max_control_line, u32::to_string);
        self.value(area, "max_payload", max_payload, &to.max_payload, u32::to_string);
        self.fixed(area, "max_pending", max_pending, &to.max_pending, u64::to_string);
        self.value(area, "ping_interval", &old.ping_interval, &new.ping_interval, |d| duration::render(*d));
        self.value(area, "ping_max", &old.ping_max, &new.ping_max, u32::to_string);
        self.value(area, "write_deadline", &old.write_deadline, &new.write_deadline, |d| {
            duration::render(*d)
        });
        self.fixed(area, "write_timeout", &old.write_timeout, &new.write_timeout, |w| w.name().into());
        self.fixed(area, "lame_duck_duration", &old.lame_duck_duration, &new.lame_duck_duration, |d| {
            duration::render(*d)
        });
        self.fixed(
            area,
            "lame_duck_grace_period",
            &old.lame_duck_grace_period,
            &new.lame_duck_grace_period,
            |d| duration::render(*d),
        );
    }

    fn logging(&mut self, old: &Logging, new: &Logging) {
        let Logging {
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
        } = old;
        let (level, area) = (Area::TraceLevel, Area::Logging);
        self.value(level, "debug", debug, &new.debug, bool::to_string);
        self.value(level, "trace", trace, &new.trace, bool::to_string);
        self.value(level, "trace_verbose", trace_verbose, &new.trace_verbose, bool::to_string);
        self.value(level, "trace_headers", trace_headers, &new.trace_headers, bool::to_string);
        self.value(area, "logtime", logtime, &new.logtime, bool::to_string);
        self.value(area, "logtime_utc", logtime_utc, &new.logtime_utc, bool::to_string);
        self.value(area, "log_file", log_file, &new.log_file, text);
        self.fixed(area, "log_size_limit", log_size_limit, &new.log_size_limit, u64::to_string);
        self.fixed(area, "log_max_num", log_max_num, &new.log_max_num, u64::to_string);
        self.value(area, "syslog", syslog, &new.syslog, bool::to_string);
        self.value(area, "remote_syslog", remote_syslog, &new.remote_syslog, text);
        self.value(level, "max_traced_msg_len", max_traced_msg_len, &new.max_traced_msg_len, u32::to_string);
    }

    fn monitoring(&mut self, old: &Monitoring, new: &Monitoring) {
        let Monitoring { host, http_port, https_port, base_path } = old;
        self.fixed(Area::Other, "http", host, &new.host, text);
        if new.http_port != Some(Port::Random) {
            self.fixed(Area::Other, "http_port", http_port, &new.http_port, port_text);
        }
        if new.https_port != Some(Port::Random) {
            self.fixed(Area::Other, "https_port", https_port, &new.https_port, port_text);
        }
        self.fixed(Area::Other, "http_base_path", base_path, &new.base_path, text);
    }

    /// Certificates and the like may change under way; who is mapped to which user may not.
    fn tls(&mut self, old: Option<&Tls>, new: Option<&Tls>) {
        let area = Area::Tls;
        let none = Tls::default();
        let (was, is) = (old.unwrap_or(&none), new.unwrap_or(&none));
        let material = |tls: &Tls| Tls {
            timeout: none.timeout,
            pinned_certs: none.pinned_certs.clone(),
            handshake_first: HandshakeFirst::Off,
            verify_and_map: false,
            connection_rate_limit: 0,
            ..tls.clone()
        };
        if old.is_some() != new.is_some() || material(was) != material(is) {
            let state = if new.is_some() { "enabled" } else { "disabled" };
            let line = format!("Reloaded: tls = {state}");
            self.list.push(Change { option: "tls", effect: Effect::Reload, area, line });
        }
        self.reload(area, "tls.timeout", &was.timeout, &is.timeout, |t| {
            format!("tls timeout = {}", t.as_secs_f64())
        });
        self.reload(area, "tls.pinned_certs", &was.pinned_certs, &is.pinned_certs, |set| {
            format!("{} pinned_certs", set.len())
        });
        self.reload(area, "tls.handshake_first", &was.handshake_first, &is.handshake_first, |first| {
            match first {
                HandshakeFirst::Off => "Client TLS handshake first: false".into(),
                HandshakeFirst::On => "Client TLS handshake first: true".into(),
                HandshakeFirst::Fallback(delay) => {
                    format!("Client TLS handshake first fallback delay: {}", duration::render(*delay))
                }
            }
        });
        self.fixed(area, "tls.verify_and_map", &was.verify_and_map, &is.verify_and_map, bool::to_string);
        self.fixed(
            area,
            "tls.connection_rate_limit",
            &was.connection_rate_limit,
            &is.connection_rate_limit,
            u32::to_string,
        );
    }

    fn authorization(&mut self, old: &Settings, new: &Settings) {
        let Authorization {
            defined: _,
            username,
            password,
            token,
            timeout,
            users,
            users_defined: _,
            default_permissions,
            auth_callout,
            proxy_required,
        } = &old.authorization;
        let area = Area::Authorization;
        let to = &new.authorization;
        self.reload(area, "authorization.user", username, &to.username, |_| "authorization username".into());
        self.reload(area, "authorization.password", password, &to.password, |_| {
            "authorization password".into()
        });
        self.reload(area, "authorization.token", token, &to.token, |_| "authorization token".into());
        self.reload(area, "authorization.timeout", timeout, &to.timeout, |_| {
            format!("authorization timeout = {}", new.auth_timeout().as_secs_f64())
        });
        let before = (by_name(users), default_permissions);
        let after = (by_name(&to.users), &to.default_permissions);
        self.reload(area, "authorization.users", &before, &after, |_| "authorization users".into());
        self.fixed_untold(area, "authorization.auth_callout", auth_callout, &to.auth_callout);
        self.fixed(area, "authorization.proxy_required", proxy_required, &to.proxy_required, bool::to_string);
        let accounts = |settings: &Settings| -> BTreeMap<String, _> {
            settings
                .accounts
                .iter()
                .map(|account| {
                    let users = by_name(&account.users)
                        .into_iter()
                        .map(|(n, u)| (n.to_string(), u.clone()))
                        .collect::<BTreeMap<_, _>>();
                    (
                        account.name.clone(),
                        (users, crate::accounts::Account { users: Vec::new(), ..account.clone() }),
                    )
                })
                .collect()
        };
        self.reload(area, "accounts", &accounts(old), &accounts(new), |_| "accounts".into());
        self.reload(area, "mappings", &old.mappings, &new.mappings, |_| "accounts".into());
        let system = |settings: &Settings| settings.system_account_name().unwrap_or_default().to_string();
        self.fixed(area, "system_account", &system(old), &system(new), String::clone);
        self.no_auth_user(old, new);
    }

    /// It may only go away, together with its user.
    fn no_auth_user(&mut self, old: &Settings, new: &Settings) {
        let gone =
            |name: &String| new.no_auth_user.is_none() && !new.users().any(|(_, user)| user.name() == name);
        match &old.no_auth_user {
            Some(name) if gone(name) => {
                self.reload(
                    Area::Authorization,
                    "no_auth_user",
                    &old.no_auth_user,
                    &new.no_auth_user,
                    |_| "no_auth_user = ".into(),
                );
            }
            _ => self.fixed(Area::Authorization, "no_auth_user", &old.no_auth_user, &new.no_auth_user, text),
        }
    }

    fn trust(&mut self, old: &Trust, new: &Trust) {
        let Trust {
            operators,
            trusted_keys,
            resolver,
            resolver_tls,
            resolver_preload,
            resolver_pinned_accounts,
            default_sentinel,
        } = old;
        let area = Area::Authorization;
        self.fixed_untold(area, "operator", &sorted(operators), &sorted(&new.operators));
        self.fixed_untold(area, "trusted_keys", &sorted(trusted_keys), &sorted(&new.trusted_keys));
        if resolver.is_some() == new.resolver.is_some() {
            self.reload(area, "resolver", resolver, &new.resolver, |_| "accounts".into());
        } else {
            let line = "config reload does not support moving to or from an account resolver".into();
            self.list.push(Change { option: "resolver", effect: Effect::Restart, area, line });
        }
        self.reload(area, "resolver_tls", resolver_tls, &new.resolver_tls, |_| "accounts".into());
        self.reload(area, "resolver_preload", resolver_preload, &new.resolver_preload, |_| "accounts".into());
        self.reload(
            area,
            "resolver_pinned_accounts",
            resolver_pinned_accounts,
            &new.resolver_pinned_accounts,
            |_| "accounts".into(),
        );
        self.reload(area, "default_sentinel", default_sentinel, &new.default_sentinel, |_| {
            "default_sentinel".into()
        });
    }

    fn cluster(&mut self, old: &Cluster, new: &Cluster) {
        let area = Area::Cluster;
        let named = |what: &'static str| move |_: &_| format!("cluster {what}");
        self.reload(area, "cluster.name", &old.name, &new.name, |name| {
            format!("cluster name = {}", text(name))
        });
        self.fixed(area, "cluster host", &old.host, &new.host, String::clone);
        if new.port != Some(Port::Random) || old.port.is_none() {
            self.fixed(area, "cluster port", &old.port, &new.port, port_text);
        }
        let credentials = |c: &Cluster| (c.username.clone(), c.password.clone(), c.auth_timeout);
        self.reload(area, "cluster.authorization", &credentials(old), &credentials(new), |_| {
            "cluster authorization".into()
        });
        self.reload(
            Area::ClusterPermissions,
            "cluster.permissions",
            &old.permissions,
            &new.permissions,
            |_| "cluster permissions".into(),
        );
        self.reload(Area::ClusterTls, "cluster.tls", &old.tls, &new.tls, |tls| {
            format!("cluster tls = {}", if tls.is_some() { "enabled" } else { "disabled" })
        });
        self.reload(area, "cluster.advertise", &old.advertise, &new.advertise, |a| {
            format!("cluster advertise = {}", text(a))
        });
        self.reload(area, "cluster.no_advertise", &old.no_advertise, &new.no_advertise, |on| {
            format!("cluster no_advertise = {on}")
        });
        self.reload(area, "cluster.connect_retries", &old.connect_retries, &new.connect_retries, |n| {
            format!("cluster connect_retries = {n}")
        });
        self.reload(area, "cluster.connect_backoff", &old.connect_backoff, &new.connect_backoff, |on| {
            format!("cluster connect_backoff = {on}")
        });
        self.reload(area, "cluster.pool_size", &old.pool_size, &new.pool_size, |n| {
            format!("cluster pool_size = {n}")
        });
        self.reload(area, "cluster.accounts", &sorted(&old.accounts), &sorted(&new.accounts), |names| {
            format!("cluster accounts = {}", names.join(", "))
        });
        self.reload(area, "cluster.compression", &old.compression, &new.compression, |c| {
            format!("cluster compression = {}", c.name())
        });
        self.reload(
            area,
            "cluster.ping_interval",
            &old.ping_interval,
            &new.ping_interval,
            named("ping_interval"),
        );
        self.reload(area, "cluster.ping_max", &old.ping_max, &new.ping_max, |_| "cluster ping_max".into());
        self.reload(
            area,
            "cluster.write_deadline",
            &old.write_deadline,
            &new.write_deadline,
            named("write_deadline"),
        );
        self.reload(area, "cluster.write_timeout", &old.write_timeout, &new.write_timeout, |w| {
            format!("cluster write_timeout = {}", w.name())
        });
        let urls = |c: &Cluster| sorted(&c.routes.iter().map(ToString::to_string).collect::<Vec<_>>());
        self.reload(Area::Routes, "cluster.routes", &urls(old), &urls(new), |_| "cluster routes".into());
    }

    fn rest(&mut self, old: &Settings, new: &Settings) {
        let area = Area::Other;
        self.fixed(area, "prof_port", &old.prof_port, &new.prof_port, port_text);
        self.value(area, "prof_block_rate", &old.prof_block_rate, &new.prof_block_rate, i64::to_string);
        self.fixed(Area::Tls, "allow_non_tls", &old.allow_non_tls, &new.allow_non_tls, bool::to_string);
        self.reload(Area::Tls, "ocsp", &old.ocsp, &new.ocsp, |_| "OCSP".into());
        self.reload(Area::Tls, "ocsp_cache", &old.ocsp_cache, &new.ocsp_cache, |_| "OCSP peer cache".into());
        self.fixed(area, "proxy_protocol", &old.proxy_protocol, &new.proxy_protocol, bool::to_string);
        let (before, after) = (sorted(&old.trusted_proxies), sorted(&new.trusted_proxies));
        self.reload(Area::Authorization, "proxies", &before, &after, |_| "proxies trusted keys".into());
        self.fixed(
            area,
            "disable_sublist_cache",
            &old.disable_sublist_cache,
            &new.disable_sublist_cache,
            bool::to_string,
        );
        self.fixed(
            area,
            "no_header_support",
            &old.no_header_support,
            &new.no_header_support,
            bool::to_string,
        );
        self.reload(
            area,
            "no_fast_producer_stall",
            &old.no_fast_producer_stall,
            &new.no_fast_producer_stall,
            |off| format!("fast producers will {}be stalled", if *off { "not " } else { "" }),
        );
        self.fixed(
            area,
            "max_closed_clients",
            &old.max_closed_clients,
            &new.max_closed_clients,
            u32::to_string,
        );
        self.value(
            area,
            "connect_error_reports",
            &old.connect_error_reports,
            &new.connect_error_reports,
            u32::to_string,
        );
        self.value(
            area,
            "reconnect_error_reports",
            &old.reconnect_error_reports,
            &new.reconnect_error_reports,
            u32::to_string,
        );
        self.fixed_untold(area, "feature_flags", &old.feature_flags, &new.feature_flags);
        // Without JetStream nats-server takes a new directory on. Responses about certificates are kept there.
        self.value(area, "store_dir", &old.store_dir, &new.store_dir, text);
        self.fixed_untold(area, "default_js_domain", &old.default_js_domain, &new.default_js_domain);
        let (before, after) = (&old.starling, &new.starling);
        self.fixed(area, "starling.worker_threads", &before.worker_threads, &after.worker_threads, |n| {
            n.map_or("auto".into(), |n| n.to_string())
        });
        self.fixed(area, "starling.data_dir", &before.data_dir, &after.data_dir, text);
    }
}

fn by_name(users: &[User]) -> BTreeMap<&str, &User> {
    users.iter().map(|user| (user.name(), user)).collect()
}

fn sorted(texts: &[String]) -> Vec<String> {
    let mut texts = texts.to_vec();
    texts.sort();
    texts
}
