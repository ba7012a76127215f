//! Flags over settings: what each overrides, in nats-server's order.

use super::Flags;
use crate::address::{Port, ServerUrl, parse_listen};
use crate::cluster::Cluster;
use crate::error::{Error, Problem};
use crate::read::add_tag;
use crate::settings::{Logging, Settings};
use crate::tls::{CertificatePair, Tls};

impl Flags {
    /// Overrides settings by the flags given. Call it on settings fresh from the file, again at each reload.
    /// Returns warnings.
    ///
    /// # Errors
    /// [`Error::Flag`] for values that cannot be used.
    pub fn apply(&self, settings: &mut Settings) -> Result<Vec<Problem>, Error> {
        let mut warnings = Vec::new();
        if self.jetstream == Some(true) {
            return Err(Error::Flag(
                "-js: JetStream is not supported yet; start the server without it".into(),
            ));
        }
        if self.store_dir.is_some() {
            warnings.push(Problem::anywhere(
                "-sd: the storage directory has no effect, JetStream is not supported yet",
            ));
            settings.store_dir.clone_from(&self.store_dir);
        }
        self.apply_listeners(settings)?;
        self.apply_logging(&mut settings.logging)?;
        self.apply_access(settings);
        self.apply_tls(settings)?;
        self.apply_cluster(settings)?;
        Ok(warnings)
    }

    fn apply_listeners(&self, settings: &mut Settings) -> Result<(), Error> {
        let default = Settings::default();
        if let Some(number) = self.port {
            settings.port = port("-p", number)?.unwrap_or(default.port);
        }
        if let Some(host) = &self.host {
            settings.host = if host.is_empty() { default.host } else { host.clone() };
        }
        text(&mut settings.server_name, &self.server_name);
        for tag in self.server_tags.iter().flat_map(|tags| tags.split(',')) {
            // `az:` of a pod whose node has no zone says nothing.
            if !tag.trim_end().ends_with(':') {
                add_tag(&mut settings.server_tags, tag);
            }
        }
        text(&mut settings.client_advertise, &self.client_advertise);
        text(&mut settings.pid_file, &self.pid_file);
        text(&mut settings.ports_file_dir, &self.ports_file_dir);
        if let Some(number) = self.http_port {
            settings.monitoring.http_port = port("-m", number)?;
        }
        if let Some(number) = self.https_port {
            settings.monitoring.https_port = port("-ms", number)?;
        }
        if let Some(number) = self.prof_port {
            settings.prof_port = port("-profile", number)?;
        }
        Ok(())
    }

    fn apply_logging(&self, logging: &mut Logging) -> Result<(), Error> {
        set(&mut logging.debug, self.debug);
        set(&mut logging.trace, self.trace);
        set(&mut logging.logtime, self.logtime);
        set(&mut logging.logtime_utc, self.logtime_utc);
        set(&mut logging.syslog, self.syslog);
        text(&mut logging.log_file, &self.log_file);
        text(&mut logging.remote_syslog, &self.remote_syslog);
        // After the plain ones, and in this order.
        if let Some(on) = self.debug_and_trace {
            (logging.debug, logging.trace) = (on, on);
        }
        if let Some(on) = self.debug_and_trace_verbose {
            (logging.debug, logging.trace, logging.trace_verbose) = (on, on, on);
        }
        if let Some(on) = self.trace_verbose {
            (logging.trace, logging.trace_verbose) = (on, on);
        }
        if let Some(number) = self.log_size_limit {
            logging.log_size_limit = count("-log_size_limit", number)?;
        }
        if let Some(number) = self.max_traced_msg_len {
            logging.max_traced_msg_len = count("-max_traced_msg_len", number)?;
        }
        Ok(())
    }

    fn apply_access(&self, settings: &mut Settings) {
        let auth = &mut settings.authorization;
        text(&mut auth.username, &self.user);
        text(&mut auth.password, &self.password);
        text(&mut auth.token, &self.token);
        auth.defined |= auth.username.is_some() || auth.password.is_some() || auth.token.is_some();
    }

    /// Any TLS flag replaces the file's certificates; `-tls=false` switches TLS off.
    fn apply_tls(&self, settings: &mut Settings) -> Result<(), Error> {
        if self.tls == Some(false) {
            settings.tls = None;
            return Ok(());
        }
        let given = self.tls.is_some()
            || self.tls_verify.is_some()
            || [&self.tls_cert, &self.tls_key, &self.tls_ca_cert].into_iter().any(Option::is_some);
        if !given {
            return Ok(());
        }
        let file = |value: &Option<String>, what: &str| {
            value
                .clone()
                .filter(|path| !path.is_empty())
                .ok_or_else(|| Error::Flag(format!("TLS Server {what} must be present and valid")))
        };
        let cert_file = file(&self.tls_cert, "certificate")?;
        let key_file = file(&self.tls_key, "private key")?;
        let before = settings.tls.take().unwrap_or_default();
        settings.tls = Some(Tls {
            certificates: vec![CertificatePair { cert_file, key_file }],
            ca_file: self.tls_ca_cert.clone().filter(|path| !path.is_empty()),
            verify: self.tls_verify.unwrap_or(false),
            timeout: before.timeout,
            pinned_certs: before.pinned_certs,
            connection_rate_limit: before.connection_rate_limit,
            handshake_first: before.handshake_first,
            ..Tls::default()
        });
        Ok(())
    }

    fn apply_cluster(&self, settings: &mut Settings) -> Result<(), Error> {
        let cluster = &mut settings.cluster;
        if let Some(listen) = &self.cluster_listen {
            cluster_listen(listen, cluster)?;
        }
        text(&mut cluster.name, &self.cluster_name);
        text(&mut cluster.advertise, &self.cluster_advertise);
        set(&mut cluster.no_advertise, self.no_advertise);
        if let Some(number) = self.connect_retries {
            cluster.connect_retries = count("-connect_retries", number)?;
        }
        let Some(routes) = &self.routes else { return Ok(()) };
        cluster.routes = routes
            .split(',')
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .map(|url| {
                ServerUrl::parse(url, "route").map_err(|reason| Error::Flag(format!("-routes: {reason}")))
            })
            .collect::<Result<_, _>>()?;
        if !cluster.routes.is_empty() && cluster.port.is_none() {
            return Err(Error::Flag("solicited routes require cluster capabilities, e.g. --cluster".into()));
        }
        Ok(())
    }
}

/// `nats://[user:password@]host:port`; empty: no cluster. The file's user does not stay.
fn cluster_listen(listen: &str, cluster: &mut Cluster) -> Result<(), Error> {
    if listen.is_empty() {
        cluster.port = None;
        return Ok(());
    }
    let wrong = |reason: String| Error::Flag(format!("-cluster: {reason}"));
    let example = "write a URL, as in nats://0.0.0.0:6222";
    let (_, rest) =
        listen.split_once("://").ok_or_else(|| wrong(format!("{listen:?} names no scheme; {example}")))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = parse_listen(address).map_err(|reason| wrong(format!("{reason}; {example}")))?;
    cluster.host = if host.is_empty() { Cluster::default().host } else { host };
    cluster.port = port;
    (cluster.username, cluster.password) = (None, None);
    if let Some((userinfo, _)) = authority.rsplit_once('@') {
        // The address was read above: only the user is wanted, whatever the port.
        let url = ServerUrl::parse(&format!("nats://{userinfo}@host"), "cluster").map_err(wrong)?;
        if url.password.is_none() {
            return Err(wrong("expected cluster password to be set".into()));
        }
        cluster.username = url.username.filter(|name| !name.is_empty());
        cluster.password = url.password.filter(|password| !password.is_empty());
    }
    Ok(())
}

fn set(target: &mut bool, given: Option<bool>) {
    if let Some(on) = given {
        *target = on;
    }
}

/// An empty value takes the file's away.
fn text(target: &mut Option<String>, given: &Option<String>) {
    if let Some(text) = given {
        *target = Some(text.clone()).filter(|text| !text.is_empty());
    }
}

fn port(flag: &str, number: i64) -> Result<Option<Port>, Error> {
    Port::from_written(number).map_err(|reason| Error::Flag(format!("{flag}: {reason}")))
}

/// A number that counts something; negative ones mean none.
fn count<T: TryFrom<i64>>(flag: &str, number: i64) -> Result<T, Error> {
    T::try_from(number.max(0)).map_err(|_| Error::Flag(format!("{flag}: {number} is too big")))
}
