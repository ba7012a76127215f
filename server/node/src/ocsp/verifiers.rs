//! Verifiers that ask for more than a valid chain: that nobody revoked it.
//!
//! A client's chain is asked about at its authorities. Of routes, whoever dials reads the response that the other
//! server staples; whoever accepts asks the authority itself, for no TLS library but Go's lets a client staple.

use super::{Peers, now_millis};
use config::ocsp::OcspPeer;
use ocsp::{Authorities, Certificate, Link, Response, Role, Status};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error};
use std::sync::Arc;

/// Why a client is turned away, in its words and in the event's.
pub const CLIENT_REJECTED: &str = "client not OCSP valid";
/// The error that makes the library send the alert of nats-server, "bad certificate".
pub const REJECTION: Error = Error::InvalidCertificate(CertificateError::BadEncoding);

/// What is asked about a peer that connected.
#[derive(Clone, Debug)]
pub enum Question {
    /// `ocsp_peer` of the clients' TLS: each certificate of the chain that names a responder.
    Client(OcspPeer),
    /// A route while `ocsp` is in force: its own certificate, which must be good, at these responders or else its own.
    Route(Vec<String>),
}

/// Asks about whoever connects. Waits.
#[derive(Debug)]
pub struct AskedAbout {
    /// The verifier of the chain.
    pub inner: Arc<dyn ClientCertVerifier>,
    /// Of `ca_file`.
    pub authorities: Authorities,
    /// What is asked.
    pub question: Question,
    /// Who asks.
    pub peers: Arc<Peers>,
}

impl AskedAbout {
    fn check(&self, certificate: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> Result<(), Error> {
        let sent: Vec<&[u8]> = sent.iter().map(|der| &**der).collect();
        let chain = self.authorities.chain(certificate, &sent, Role::Client, now_millis());
        let chain = chain.map_err(|error| Error::General(error.to_string()))?;
        match &self.question {
            Question::Client(options) => {
                if self.peers.is_valid(&chain, options) {
                    return Ok(());
                }
                if let Some(peer) = chain.first() {
                    self.peers.tell_rejected("Client", peer, CLIENT_REJECTED);
                }
                Err(REJECTION)
            }
            Question::Route(responders) => {
                let Some(link) = first_link(chain) else {
                    return Err(Error::General("the route's certificate has no issuer to ask".into()));
                };
                let configured = responders.iter().map(String::as_str);
                let verdict = match responders.is_empty() {
                    false => self.peers.judge(&link, configured, &OcspPeer::default()),
                    true => self.peers.judge(&link, link.responders(), &OcspPeer::default()),
                };
                let refused = |reason| Err(Error::General(format!("the route's certificate: {reason}")));
                verdict.invalid.map_or(Ok(()), refused)
            }
        }
    }
}

fn first_link(chain: Vec<Certificate>) -> Option<Link> {
    let mut chain = chain.into_iter();
    Some(Link { certificate: chain.next()?, issuer: chain.next()? })
}

impl ClientCertVerifier for AskedAbout {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(certificate, chain, now)?;
        self.check(certificate, chain).map(|()| verified)
    }

    crate::tls::signatures_by_inner!();
}

/// Reads the response that the other server staples; none is not enough.
#[derive(Debug)]
pub struct Stapled {
    /// The verifier of the chain.
    pub inner: Arc<dyn ServerCertVerifier>,
    /// Of `ca_file`.
    pub authorities: Authorities,
}

impl Stapled {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        staple: &[u8],
    ) -> Result<(), String> {
        if staple.is_empty() {
            return Err("Router peer missing OCSP Staple".into());
        }
        let sent: Vec<&[u8]> = sent.iter().map(|der| &**der).collect();
        let now = now_millis();
        let chain = self.authorities.chain(certificate, &sent, Role::Server, now);
        let link = first_link(chain.map_err(|error| error.to_string())?);
        let link = link.ok_or("failed to get issuer certificate for Router peer")?;
        let response = Response::parse(staple, &link.certificate, &link.issuer);
        let response = response.map_err(|error| format!("OCSP Staple from Router peer: {error}"))?;
        let rules = super::peers::rules(&OcspPeer::default());
        ocsp::is_current(&response, &rules, now).map_err(|error| error.to_string())?;
        match response.status {
            Status::Good => Ok(()),
            status => Err(format!("bad status for OCSP Staple from Router peer: {}", status.name())),
        }
    }
}

impl ServerCertVerifier for Stapled {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        staple: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(certificate, chain, name, staple, now)?;
        self.check(certificate, chain, staple).map_err(Error::General).map(|()| verified)
    }

    crate::tls::signatures_by_inner!();
}
