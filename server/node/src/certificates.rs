//! The TLS configurations in force, and the watch over the files that they were made from.
//!
//! Owns when certificates are read: at start, at a reload, and when a file changes, also by the swap of the symlink
//! that a mounted Secret is behind. New connections get what is in force; open ones keep what they have. Certificates
//! that cannot be used change nothing.

use crate::ocsp::verifiers::Question;
use crate::ocsp::{Peers, Staple};
use crate::shared::Shared;
use crate::tls::{self, Demands, Revocation, RouteNames};
use accounts::CertificateFacts;
use broker::{CloseReason, LinkKind};
use config::Settings;
use config::tls::Tls;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

/// How often the files are looked at.
const WATCH_PERIOD: Duration = Duration::from_secs(2);

/// TLS of all listeners.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// For clients.
    pub client: Option<Arc<ServerConfig>>,
    /// For the monitor.
    pub monitor: Option<Arc<ServerConfig>>,
    /// For accepting routes.
    pub route_server: Option<Arc<ServerConfig>>,
    /// For opening routes.
    pub route_client: Option<Arc<ClientConfig>>,
    /// Clients' certificates are asked about at their authorities.
    pub asks_about_clients: bool,
    /// Those of routes are.
    pub asks_about_routes: bool,
    /// What is shown beside these certificates.
    pub staples: Vec<Arc<Staple>>,
    /// When the certificate for clients ends, in seconds since 1970.
    pub client_not_after_seconds: Option<i64>,
    /// When the certificate for routes ends.
    pub route_not_after_seconds: Option<i64>,
}

impl Certificates {
    /// Reads all files that the settings name, and gets the responses that are to be shown.
    ///
    /// # Errors
    /// A file cannot be read, a key does not belong to its certificate, or there is no response.
    pub fn read(settings: &Settings, peers: &Arc<Peers>) -> Result<Certificates, tls::Error> {
        Certificates::read_with(settings, peers, Staple::prepare)
    }

    /// The same in a running server: a response that cannot be had is left out.
    ///
    /// # Errors
    /// A file cannot be read, or a key does not belong to its certificate.
    pub fn reread(settings: &Settings, peers: &Arc<Peers>) -> Result<Certificates, tls::Error> {
        Certificates::read_with(settings, peers, |kind, tls, settings, bare| {
            let prepared = Staple::prepare(kind, tls, settings, bare);
            Ok(prepared.unwrap_or_else(|error| {
                tracing::warn!("Can't restart OCSP features: {error}");
                None
            }))
        })
    }

    fn read_with(
        settings: &Settings,
        peers: &Arc<Peers>,
        prepare: impl Fn(&'static str, &Tls, &Settings, CertifiedKey) -> Result<Option<Arc<Staple>>, tls::Error>,
    ) -> Result<Certificates, tls::Error> {
        let staple = |kind, tls| match tls::first_certificate(tls)? {
            Some(bare) => prepare(kind, tls, settings, bare),
            None => Ok(None),
        };
        let mut read = Certificates::default();
        if let Some(tls) = &settings.tls {
            let staple = staple("Client", tls)?;
            read.staples.extend(staple.clone());
            let peer = tls.ocsp_peer.clone().filter(|peer| peer.verify);
            let asks = peer.map(|peer| (Question::Client(peer), peers.clone()));
            read.asks_about_clients = asks.is_some();
            let demands = Demands { pinned: tls.pinned_certs.clone(), route: None };
            let verify = tls.verify || tls.verify_and_map || !tls.pinned_certs.is_empty();
            let revocation = Revocation { staple: staple.clone(), asks };
            read.client = Some(tls::server_config(tls, verify, &demands, revocation)?);
            read.client_not_after_seconds = tls::not_after_seconds(tls);
            if settings.monitoring.https_port.is_some() {
                let revocation = Revocation { staple, asks: None };
                read.monitor = Some(tls::server_config(tls, false, &Demands::default(), revocation)?);
            }
        }
        if let Some(tls) = &settings.cluster.tls {
            let staple = staple("Router", tls)?;
            read.staples.extend(staple.clone());
            let stapled = staple.is_some();
            let responders = settings.ocsp.as_ref().map(|ocsp| ocsp.urls.clone()).unwrap_or_default();
            let asks = stapled.then(|| (Question::Route(responders), peers.clone()));
            read.asks_about_routes = stapled;
            let pinned = tls.pinned_certs.clone();
            let accepted = Demands { pinned: pinned.clone(), route: route_names(settings, tls) };
            // routes always check each other
            let verify = !tls.insecure || tls.ca_file.is_some() || !accepted.is_empty();
            let revocation = Revocation { staple, asks };
            read.route_server = Some(tls::server_config(tls, verify, &accepted, revocation)?);
            read.route_client = Some(tls::client_config(tls, &Demands { pinned, route: None }, stapled)?);
            read.route_not_after_seconds = tls::not_after_seconds(tls);
        }
        Ok(read)
    }
}

/// Ends connections whose keys are not pinned any more.
pub fn close_unpinned(shared: &Shared) {
    let settings = shared.settings();
    for link in shared.broker.links() {
        let tls = if link.kind == LinkKind::Route { &settings.cluster.tls } else { &settings.tls };
        let Some(tls) = tls.as_ref().filter(|tls| !tls.pinned_certs.is_empty()) else { continue };
        let Some(certificate) = link.transport.peer_certificate() else { continue };
        let facts = CertificateFacts::from_der(&certificate);
        if !facts.is_ok_and(|facts| tls.pinned_certs.contains(&facts.key_sha256)) {
            link.close(CloseReason::TlsHandshakeError);
        }
    }
}

fn route_names(settings: &Settings, tls: &Tls) -> Option<RouteNames> {
    let known_urls = tls.verify_cert_and_check_known_urls;
    let hosts = settings.cluster.routes.iter().filter(|_| known_urls);
    let user = settings.cluster.username.clone().filter(|_| tls.verify_and_map);
    let hosts = hosts.map(|url| url.host.to_ascii_lowercase()).collect();
    (tls.verify_and_map || known_urls).then_some(RouteNames { user, hosts })
}

/// What tells one state of a file from another: by metadata, which a swapped symlink changes too.
type Mark = (PathBuf, Option<(u64, std::time::SystemTime, u64)>);

fn marks(settings: &Settings) -> Vec<Mark> {
    let blocks = [&settings.tls, &settings.cluster.tls].into_iter().flatten();
    let files = blocks.flat_map(|tls| {
        let pairs = tls.certificates.iter().flat_map(|pair| [&pair.cert_file, &pair.key_file]);
        pairs.chain(&tls.ca_file)
    });
    files.map(|file| (PathBuf::from(file), mark(file))).collect()
}

fn mark(file: &str) -> Option<(u64, std::time::SystemTime, u64)> {
    let metadata = std::fs::metadata(file).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some((inode, metadata.modified().ok()?, metadata.len()))
}

/// Responders may be waited for, which the thread of the caller must not.
async fn reread(settings: Arc<Settings>, peers: Arc<Peers>) -> Result<Certificates, tls::Error> {
    let read = tokio::task::spawn_blocking(move || Certificates::reread(&settings, &peers)).await;
    read.unwrap_or_else(|error| Err(tls::Error::Refused(error.to_string())))
}

/// Looks at the files for as long as the server runs.
pub async fn watch(shared: Weak<Shared>) {
    let mut seen: Option<Vec<Mark>> = None;
    let mut complaint = String::new();
    loop {
        let Some(server) = shared.upgrade() else { return };
        let settings = server.settings();
        let found = marks(&settings);
        match &seen {
            Some(seen) if *seen == found => {}
            None => seen = Some(found),
            Some(_) => match reread(settings, server.peers.clone()).await {
                Ok(certificates) => {
                    *server.certificates.write() = certificates;
                    tracing::info!("Reloaded certificates, their files have changed");
                    (seen, complaint) = (Some(found), String::new());
                }
                // perhaps only half of them are written: looked at again until they fit
                Err(error) => {
                    let text = error.to_string();
                    if text != complaint {
                        tracing::error!(
                            "certificate files have changed and cannot be used, the old ones stay: {text}"
                        );
                        complaint = text;
                    }
                }
            },
        }
        drop(server);
        tokio::time::sleep(WATCH_PERIOD).await;
    }
}
