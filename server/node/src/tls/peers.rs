//! Who is believed at the other end of TLS, beyond what authorities vouch for.
//!
//! Owns `insecure`, pinned keys and the names that certificates of routes must have. Reads no file.

use accounts::{CertificateFacts, CertificateNames};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a certificate must be besides valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// `pinned_certs`: SHA-256 of the public keys that are taken, in lower-case hexadecimal; empty for all.
    pub pinned: BTreeSet<String>,
    /// The names of which a route's certificate must have one; `None` for any.
    pub route: Option<RouteNames>,
}

/// Names for certificates of routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteNames {
    /// `verify_and_map`: the user of the cluster's `authorization`.
    pub user: Option<String>,
    /// `verify_cert_and_check_known_urls`: the hosts of the configured routes, in lower case.
    pub hosts: Vec<String>,
}

impl Demands {
    /// Whether any valid certificate will do.
    pub fn is_empty(&self) -> bool {
        self.pinned.is_empty() && self.route.is_none()
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let unreadable = |error: accounts::CertificateError| rustls::Error::General(error.to_string());
        if !self.pinned.is_empty() {
            let facts = CertificateFacts::from_der(certificate).map_err(unreadable)?;
            if !self.pinned.contains(&facts.key_sha256) {
                return Err(rustls::Error::General(format!("key id {} is not pinned", facts.key_sha256)));
            }
        }
        let Some(route) = &self.route else { return Ok(()) };
        let names = CertificateNames::from_der(certificate).map_err(unreadable)?;
        let is_user = route.user.as_deref().is_some_and(|user| names.has_name(user));
        let is_host = || names.dns_names.iter().any(|name| route.hosts.iter().any(|host| covers(name, host)));
        match is_user || is_host() {
            true => Ok(()),
            false => Err(rustls::Error::General("no name in the certificate belongs to a route".into())),
        }
    }
}

/// RFC 6125: a `*` is a whole leftmost label.
fn covers(name: &str, host: &str) -> bool {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix("*.") {
        Some(rest) => host.split_once('.').is_some_and(|(_, parent)| parent == rest),
        None => name == host,
    }
}

/// The rest of a verifier that asks more of a certificate than its `inner` one: signatures are judged there. Paths are
/// whole, so that it serves wherever it is used.
macro_rules! signatures_by_inner {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.inner.verify_tls12_signature(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.inner.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.inner.supported_verify_schemes()
        }
    };
}
pub(crate) use signatures_by_inner;

/// A verifier whose yes is not enough.
#[derive(Debug)]
pub(super) struct Demanding<V: ?Sized> {
    pub(super) demands: Demands,
    pub(super) inner: Arc<V>,
}

impl ClientCertVerifier for Demanding<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(certificate, chain, now)?;
        self.demands.check(certificate).map(|()| verified)
    }

    signatures_by_inner!();
}

impl ServerCertVerifier for Demanding<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(certificate, chain, name, ocsp, now)?;
        self.demands.check(certificate).map(|()| verified)
    }

    signatures_by_inner!();
}

/// `verify` without `ca_file`: no authority vouches for anybody.
#[derive(Debug)]
pub(super) struct NobodyTrusted(pub(super) Arc<CryptoProvider>);

impl ClientCertVerifier for NobodyTrusted {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Unverified(self.0.clone()).verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Unverified(self.0.clone()).verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `insecure: true`: any certificate will do. The configuration warns about it.
#[derive(Debug)]
pub(super) struct Unverified(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for NobodyTrusted {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_one_label_and_nothing_else() {
        assert!(covers("a.example.org", "a.example.org") && covers("*.Example.org", "a.example.org"));
        for (name, host) in [
            ("*.example.org", "example.org"),
            ("*.example.org", "b.a.example.org"),
            ("a.*.org", "a.b.org"),
            ("*", "a"),
        ] {
            assert!(!covers(name, host), "{name} {host}");
        }
    }
}
