//! The way from a peer's certificate to an authority.

use crate::{Certificate, Error};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// The authorities of a `ca_file`.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    certificates: Vec<Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// What the peer is in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connected to us.
    Client,
    /// We connected to it.
    Server,
}

/// A certificate of a chain that can be asked about.
#[derive(Clone, Debug)]
pub struct Link {
    /// The certificate.
    pub certificate: Certificate,
    /// Who issued it.
    pub issuer: Certificate,
}

impl Authorities {
    /// From certificates in DER.
    ///
    /// # Errors
    /// [`Error::Malformed`]
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Result<Authorities, Error> {
        let mut authorities = Authorities::default();
        for der in certificates {
            let anchor = CertificateDer::from(der);
            let anchor = anchor_from_trusted_cert(&anchor).map_err(|_| Error::Malformed("an authority"))?;
            authorities.anchors.push(anchor.to_owned());
            authorities.certificates.push(Certificate::from_der(der)?);
        }
        Ok(authorities)
    }

    pub(crate) fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The chain from a peer's certificate to an authority, both included, by way of what the peer sent along.
    ///
    /// # Errors
    /// [`Error::NoChain`]
    pub fn chain(
        &self,
        peer: &[u8],
        sent: &[&[u8]],
        role: Role,
        now_millis: i64,
    ) -> Result<Vec<Certificate>, Error> {
        let fail = |error: webpki::Error| Error::NoChain(error.to_string());
        let peer_der = CertificateDer::from(peer);
        let sent_ders: Vec<CertificateDer<'_>> = sent.iter().map(|der| CertificateDer::from(*der)).collect();
        let end = EndEntityCert::try_from(&peer_der).map_err(fail)?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now_millis.unsigned_abs()));
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let path = end.verify_for_usage(algorithms, &self.anchors, &sent_ders, now, usage, None, None);
        let path = path.map_err(fail)?;
        let mut chain = vec![Certificate::from_der(peer)?];
        let mut between = Vec::new();
        for certificate in path.intermediate_certificates() {
            between.push(Certificate::from_der(&certificate.der())?);
        }
        // whichever end the library begins at
        if between.first().is_some_and(|first| first.subject != chain[0].issuer) {
            between.reverse();
        }
        chain.extend(between);
        let place = self.anchors.iter().position(|anchor| anchor == path.anchor());
        let root = place.and_then(|place| self.certificates.get(place));
        let root = root.ok_or_else(|| Error::NoChain("the authority is not known".into()))?;
        if chain.last().is_none_or(|last| last.der() != root.der()) {
            chain.push(root.clone());
        }
        Ok(chain)
    }
}

impl Link {
    /// The certificates of a chain whose authority names a responder on the web. The authority at the end cannot be
    /// asked about.
    pub fn of_chain(chain: &[Certificate]) -> Vec<Link> {
        let pairs = chain.windows(2).filter_map(|pair| match pair {
            [certificate, issuer] => Some((certificate, issuer)),
            _ => None,
        });
        pairs
            .filter(|(certificate, _)| certificate.responders.iter().any(|url| is_web(url)))
            .map(|(certificate, issuer)| Link { certificate: certificate.clone(), issuer: issuer.clone() })
            .collect()
    }

    /// The responders to ask.
    pub fn responders(&self) -> impl Iterator<Item = &str> {
        self.certificate.responders.iter().map(String::as_str).filter(|url| is_web(url))
    }
}

fn is_web(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}
