//! Responses about this server's own certificates, shown in its handshakes.
//!
//! Owns getting them (from `store_dir`, else from a responder), keeping them there, renewing them in time, and the end
//! of a server whose certificate was revoked, where the configuration wants that.

use super::{now_millis, responder};
use crate::control::Order;
use crate::shared::Shared;
use crate::tls::{self, Error};
use config::Settings;
use config::settings::OcspMode;
use config::tls::Tls;
use ocsp::{Certificate, Mode, Response, Status};
use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Folder in `store_dir`.
const FOLDER: &str = "ocsp";
/// Time for a responder to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// How often the renewal looks whether it is time, so that it sees a reload soon.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A certificate with the response that is shown beside it.
#[derive(Debug)]
pub struct Staple {
    /// `Client` or `Router`, as log lines have it.
    kind: &'static str,
    cert_file: String,
    certificate: Certificate,
    issuer: Certificate,
    responders: Vec<String>,
    /// Where the response is kept.
    file: Option<PathBuf>,
    ends_when_revoked: bool,
    bare: CertifiedKey,
    shown: RwLock<Option<Shown>>,
    due_millis: AtomicI64,
}

#[derive(Clone, Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    response: Response,
}

impl Staple {
    /// For the first certificate of a block, if a response is to be shown beside it.
    ///
    /// # Errors
    /// There is no response, or it says that the certificate was revoked and the configuration ends a server with such
    /// a one.
    pub fn prepare(
        kind: &'static str,
        tls: &Tls,
        settings: &Settings,
        bare: CertifiedKey,
    ) -> Result<Option<Arc<Staple>>, Error> {
        let cert_file = tls.certificates.first().map(|pair| pair.cert_file.clone()).unwrap_or_default();
        let fail = |reason: String| Error::Staple { file: cert_file.clone(), reason };
        let unreadable = |error: ocsp::Error| fail(error.to_string());
        let chain: Result<Vec<_>, _> = bare.cert.iter().map(|der| Certificate::from_der(der)).collect();
        let chain = chain.map_err(unreadable)?;
        let Some(certificate) = chain.first().cloned() else { return Ok(None) };
        let mode = settings.ocsp.as_ref().map(|ocsp| mode(ocsp.mode));
        let plan = ocsp::plan(mode, certificate.must_staple);
        if plan.disregards_demand {
            tracing::warn!("Certificate at '{cert_file}' has MustStaple but OCSP is disabled");
        }
        if !plan.staples {
            return Ok(None);
        }
        let issuer = ocsp::issuer(&chain, &tls::ocsp_authorities(tls)?).map_err(unreadable)?;
        let folder = settings.store_dir.as_ref().map(|folder| Path::new(folder).join(FOLDER));
        if let Some(folder) = &folder {
            let failed = |error| fail(format!("cannot make {}: {error}", folder.display()));
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let configured = settings.ocsp.as_ref().map(|ocsp| ocsp.urls.clone()).filter(|urls| !urls.is_empty());
        let staple = Staple {
            kind,
            file: folder.map(|folder| folder.join(certificate.file_name())),
            responders: configured.unwrap_or_else(|| certificate.responders.clone()),
            certificate,
            issuer,
            ends_when_revoked: plan.ends_when_revoked,
            bare,
            shown: RwLock::default(),
            due_millis: AtomicI64::new(0),
            cert_file: cert_file.clone(),
        };
        let response = match staple.stored() {
            Some(response) => response,
            None => staple.fetch().map_err(&fail)?,
        };
        if response.status != Status::Good && staple.ends_when_revoked {
            return Err(fail(format!("its status is {}", response.status.name())));
        }
        tracing::info!("OCSP Stapling enabled for {kind} connections");
        staple.tell(&response, "Found");
        Ok(Some(Arc::new(staple)))
    }

    fn parse(&self, der: &[u8]) -> Result<Response, ocsp::Error> {
        let response = Response::parse(der, &self.certificate, &self.issuer)?;
        ocsp::check_validity(&response, now_millis())?;
        Ok(response)
    }

    /// The response in `store_dir`, if it counts.
    fn stored(&self) -> Option<Response> {
        let der = std::fs::read(self.file.as_ref()?).ok()?;
        let response = self.parse(&der).ok()?;
        self.show(der, response);
        Some(response)
    }

    /// Gets a response and shows it. Waits.
    fn fetch(&self) -> Result<Response, String> {
        let request = ocsp::request(&self.certificate, &self.issuer);
        let mut last = "no available ocsp servers".to_owned();
        for responder in &self.responders {
            let answer = responder::post_or_get(responder, &request, ANSWER_TIME_MAX);
            let parsed = answer.and_then(|der| {
                let response = self.parse(&der).map_err(|error| error.to_string())?;
                Ok((der, response))
            });
            match parsed {
                Ok((der, response)) => {
                    self.keep(&der)?;
                    self.show(der, response);
                    return Ok(response);
                }
                Err(error) => last = format!("{responder}: {error}"),
            }
        }
        Err(last)
    }

    /// Whole or not at all.
    fn keep(&self, der: &[u8]) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        let new = file.with_extension("new");
        let written = std::fs::write(&new, der).and_then(|()| std::fs::rename(&new, file));
        written.map_err(|error| format!("cannot keep the response in {}: {error}", file.display()))
    }

    fn show(&self, der: Vec<u8>, response: Response) {
        let key = Arc::new(CertifiedKey { ocsp: Some(der), ..self.bare.clone() });
        let wait = ocsp::next_look(response.next_update_millis, now_millis());
        self.due_millis.store(now_millis().saturating_add(wait.as_millis() as i64), Relaxed);
        *self.shown.write() = Some(Shown { key, response });
    }

    fn tell(&self, response: &Response, verb: &str) {
        let (kind, file, status) = (self.kind, &self.cert_file, response.status.name());
        if response.status != Status::Good {
            return tracing::error!("{verb} OCSP status for {kind} certificate '{file}': {status}");
        }
        let wait = ocsp::next_look(response.next_update_millis, now_millis());
        tracing::info!(
            "{verb} OCSP status for {kind} certificate '{file}': {status}, checking again in {}s",
            wait.as_secs()
        );
    }

    /// Renews the response; `true` if the server is to end.
    fn renew(&self) -> bool {
        let before = self.shown.read().as_ref().map(|shown| shown.response);
        match self.fetch() {
            Ok(response) => {
                let is_news = before.is_none_or(|before| before.status != response.status);
                if response.status == Status::Good || is_news {
                    self.tell(&response, "Received");
                }
                response.status != Status::Good && self.ends_when_revoked
            }
            Err(error) => {
                let next = before.and_then(|before| before.next_update_millis);
                let wait = ocsp::next_look(next, now_millis());
                self.due_millis.store(now_millis().saturating_add(wait.as_millis() as i64), Relaxed);
                tracing::error!(
                    "Bad OCSP status update for certificate '{}': {error}, trying again in {}s",
                    self.cert_file,
                    wait.as_secs()
                );
                false
            }
        }
    }
}

fn mode(mode: OcspMode) -> Mode {
    match mode {
        OcspMode::Auto => Mode::Auto,
        OcspMode::Always => Mode::Always,
        OcspMode::Never => Mode::Never,
        OcspMode::Must => Mode::Must,
    }
}

impl ResolvesServerCert for Staple {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }
}

impl Staple {
    /// The certificate with its response; `None`, and so no handshake, when that counts no more.
    pub fn shown(&self) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read();
        let shown = shown.as_ref()?;
        if let Err(error) = ocsp::check_validity(&shown.response, now_millis()) {
            tracing::error!("certificate '{}' cannot be shown: {error}", self.cert_file);
            self.due_millis.store(0, Relaxed);
            return None;
        }
        Some(shown.key.clone())
    }
}

/// Renews what is shown for as long as the server runs.
pub async fn renew(shared: Weak<Shared>, orders: UnboundedSender<Order>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(server) = shared.upgrade() else { return };
        let staples = server.certificates.read().staples.clone();
        drop(server);
        for staple in staples {
            if now_millis() < staple.due_millis.load(Relaxed) {
                continue;
            }
            let renewed = tokio::task::spawn_blocking(move || staple.renew()).await;
            if renewed.unwrap_or(false) {
                tracing::error!("the certificate of this server is not good any more: it ends");
                let _ = orders.send(Order::Stop);
                return;
            }
        }
    }
}
