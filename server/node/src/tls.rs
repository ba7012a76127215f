//! TLS settings made into rustls configurations.
//!
//! Owns the reading of certificate files. Never logs key material; errors name the file, not its content.

mod peers;

pub(crate) use peers::signatures_by_inner;
use peers::{Demanding, NobodyTrusted, Unverified};
pub use peers::{Demands, RouteNames};

use crate::ocsp::verifiers::{AskedAbout, Question, Stapled};
use crate::ocsp::{Peers, Staple};
use config::tls::{Tls, TlsVersion};
use ocsp::Authorities;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCertUsingSni, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or holds no PEM of the right kind.
    #[error("TLS: {what} {file:?}: {reason}")]
    File {
        /// Certificate, key or authorities.
        what: &'static str,
        /// The path as configured.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// No certificate is configured.
    #[error("TLS: no cert_file is configured")]
    NoCertificate,
    /// The response that is to be shown beside a certificate cannot be had, or says that it was revoked.
    #[error("bad OCSP status update for certificate at '{file}': {reason}")]
    Staple {
        /// `cert_file` as configured.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The library refuses the combination.
    #[error("TLS: {0}")]
    Refused(String),
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Refused(error.to_string())
}

fn certificates(what: &'static str, file: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let fail = |reason: String| Error::File { what, file: file.into(), reason };
    let list: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| fail(error.to_string()))?.collect();
    let list = list.map_err(|error| fail(error.to_string()))?;
    if list.is_empty() { Err(fail("holds no certificate".into())) } else { Ok(list) }
}

fn authorities(file: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca_file", file)? {
        roots.add(certificate).map_err(refused)?;
    }
    Ok(roots)
}

/// The library's provider with the suites and curves that are allowed.
fn provider(tls: &Tls) -> Result<Arc<CryptoProvider>, Error> {
    let mut provider = ring::default_provider();
    let lacking = lacking_suites(tls);
    if !lacking.is_empty() && lacking.len() == tls.cipher_suites.len() {
        return Err(Error::Refused(format!("none of the cipher suites {lacking:?} is supported")));
    }
    if !tls.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| {
            let name = suite_name(*suite);
            is_of_1_3(&name) || tls.cipher_suites.iter().any(|wanted| is_same_suite(wanted, &name))
        });
    }
    if !tls.curve_preferences.is_empty() {
        let wanted: Vec<String> = tls.curve_preferences.iter().map(|c| curve(c)).collect();
        provider.kx_groups.retain(|group| wanted.contains(&format!("{:?}", group.name())));
        if provider.kx_groups.is_empty() {
            return Err(Error::Refused(format!(
                "none of the curves {:?} is supported",
                tls.curve_preferences
            )));
        }
    }
    Ok(Arc::new(provider))
}

fn suite_name(suite: rustls::SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
}

/// Versions other than 1.2 have suites of their own that cannot be chosen, as in Go.
fn is_of_1_3(name: &str) -> bool {
    name.starts_with("TLS_AES_") || name.starts_with("TLS_CHACHA20")
}

fn is_same_suite(wanted: &str, name: &str) -> bool {
    wanted.trim_end_matches("_SHA256") == name.trim_end_matches("_SHA256")
}

/// Suites that are asked for and that the library does not have: those without forward secrecy, and those with CBC.
fn lacking_suites(tls: &Tls) -> Vec<&str> {
    let has = |wanted: &str| {
        let suites = ring::ALL_CIPHER_SUITES.iter();
        is_of_1_3(wanted) || suites.map(|suite| suite_name(*suite)).any(|name| is_same_suite(wanted, &name))
    };
    tls.cipher_suites.iter().map(String::as_str).filter(|wanted| !has(wanted)).collect()
}

/// Names what is asked for and left out.
fn warn_of_lacking(tls: &Tls) {
    let lacking = lacking_suites(tls);
    if !lacking.is_empty() {
        tracing::warn!("TLS: the cipher suites {lacking:?} are not supported and left out");
    }
    let has = |wanted: &String| {
        ring::ALL_KX_GROUPS.iter().any(|group| format!("{:?}", group.name()) == curve(wanted))
    };
    let lacking: Vec<&String> = tls.curve_preferences.iter().filter(|wanted| !has(wanted)).collect();
    if !lacking.is_empty() {
        tracing::warn!("TLS: the curves {lacking:?} are not supported and left out");
    }
}

fn curve(name: &str) -> String {
    match name {
        "CurveP256" => "secp256r1".into(),
        "CurveP384" => "secp384r1".into(),
        "CurveP521" => "secp521r1".into(),
        other => other.into(),
    }
}

fn versions(tls: &Tls) -> &'static [&'static rustls::SupportedProtocolVersion] {
    static ONLY_1_3: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match tls.min_version {
        TlsVersion::V1_2 => rustls::ALL_VERSIONS,
        TlsVersion::V1_3 => &ONLY_1_3,
    }
}

/// The authorities of `ca_file`, for questions about what they issued.
pub(crate) fn ocsp_authorities(tls: &Tls) -> Result<Authorities, Error> {
    let list = match &tls.ca_file {
        Some(file) => certificates("ca_file", file)?,
        None => Vec::new(),
    };
    Authorities::new(list.iter().map(|der| &**der)).map_err(refused)
}

/// The first certificate of a block with its key; `None` without one.
///
/// # Errors
/// [`Error`], naming the file.
pub(crate) fn first_certificate(tls: &Tls) -> Result<Option<CertifiedKey>, Error> {
    let Some((chain, key)) = pairs(tls)?.into_iter().next() else { return Ok(None) };
    CertifiedKey::from_der(chain, key, &*provider(tls)?).map(Some).map_err(refused)
}

/// What a listener does about OCSP.
#[derive(Clone, Debug, Default)]
pub struct Revocation {
    /// A response is shown beside the first certificate.
    pub staple: Option<Arc<Staple>>,
    /// What is asked about the peers, by whom.
    pub asks: Option<(Question, Arc<Peers>)>,
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn pairs(tls: &Tls) -> Result<Vec<Pair>, Error> {
    tls.certificates
        .iter()
        .map(|pair| {
            let chain = certificates("cert_file", &pair.cert_file)?;
            let key = PrivateKeyDer::from_pem_file(&pair.key_file).map_err(|error| Error::File {
                what: "key_file",
                file: pair.key_file.clone(),
                reason: error.to_string(),
            })?;
            Ok((chain, key))
        })
        .collect()
}

/// For accepting connections. `verify`: the peer must show a certificate of the authorities, which must be as
/// `demands` say.
///
/// # Errors
/// [`Error`], naming the file.
pub fn server_config(
    tls: &Tls,
    verify: bool,
    demands: &Demands,
    revocation: Revocation,
) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider(tls)?;
    warn_of_lacking(tls);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(tls))
        .map_err(refused)?;
    let verifier: Option<Arc<dyn ClientCertVerifier>> = match (&tls.ca_file, verify) {
        (Some(file), true) => {
            let roots = Arc::new(authorities(file)?);
            let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
            Some(builder.build().map_err(refused)?)
        }
        // as Go with an empty pool: a certificate is asked for, and none is good enough
        (None, true) => Some(Arc::new(NobodyTrusted(provider.clone()))),
        (_, false) => None,
    };
    let verifier: Option<Arc<dyn ClientCertVerifier>> = match verifier {
        Some(inner) if !demands.is_empty() => Some(Arc::new(Demanding { inner, demands: demands.clone() })),
        verifier => verifier,
    };
    let asks = revocation.asks.is_some();
    let verifier: Option<Arc<dyn ClientCertVerifier>> = match (verifier, revocation.asks) {
        (Some(inner), Some((question, peers))) => {
            let authorities = ocsp_authorities(tls)?;
            Some(Arc::new(AskedAbout { inner, authorities, question, peers }))
        }
        (verifier, _) => verifier,
    };
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut pairs = pairs(tls)?;
    let mut config = match (pairs.len(), revocation.staple) {
        (0, _) => return Err(Error::NoCertificate),
        (1, Some(staple)) => builder.with_cert_resolver(staple),
        (1, None) => {
            let (chain, key) = pairs.remove(0);
            builder.with_single_cert(chain, key).map_err(refused)?
        }
        (_, staple) => {
            let (chain, key) = &pairs[0];
            let first = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider).map_err(refused)?;
            // the name of a certificate with a response must not lead to it without
            let named = if staple.is_some() { &pairs[1..] } else { &pairs[..] };
            let names = by_name(named, &provider)?;
            builder.with_cert_resolver(Arc::new(ByName { names, first: Arc::new(first), staple }))
        }
    };
    if asks {
        // a session that is taken up again shows no certificate that could be asked about
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// Several certificates: the one whose name the client asks for, else the first.
#[derive(Debug)]
struct ByName {
    names: ResolvesServerCertUsingSni,
    first: Arc<CertifiedKey>,
    /// The first with a response beside it.
    staple: Option<Arc<Staple>>,
}

fn by_name(pairs: &[Pair], provider: &CryptoProvider) -> Result<ResolvesServerCertUsingSni, Error> {
    let mut names = ResolvesServerCertUsingSni::new();
    for (chain, key) in pairs {
        let certified = CertifiedKey::from_der(chain.clone(), key.clone_key(), provider).map_err(refused)?;
        let parsed = webpki::EndEntityCert::try_from(&chain[0]).map_err(refused)?;
        for name in parsed.valid_dns_names() {
            // wildcard names cannot be looked up: the first certificate stays the answer
            let _ = names.add(name, certified.clone());
        }
    }
    Ok(names)
}

impl rustls::server::ResolvesServerCert for ByName {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = || self.staple.as_ref().map_or_else(|| Some(self.first.clone()), |staple| staple.shown());
        self.names.resolve(hello).or_else(first)
    }
}

/// For opening connections to other servers, whose certificates must be as `demands` say. `stapled`: and good, by a
/// response that they show.
///
/// # Errors
/// [`Error`], naming the file.
pub fn client_config(tls: &Tls, demands: &Demands, stapled: bool) -> Result<Arc<ClientConfig>, Error> {
    let provider = provider(tls)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(tls))
        .map_err(refused)?;
    let verifier: Arc<dyn ServerCertVerifier> = match (&tls.ca_file, tls.insecure) {
        (_, true) => Arc::new(Unverified(provider)),
        (Some(file), false) => {
            let roots = Arc::new(authorities(file)?);
            WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(refused)?
        }
        // without authorities nobody is believed
        (None, false) => Arc::new(NobodyTrusted(provider)),
    };
    let verifier: Arc<dyn ServerCertVerifier> = match demands.is_empty() {
        true => verifier,
        false => Arc::new(Demanding { inner: verifier, demands: demands.clone() }),
    };
    let verifier: Arc<dyn ServerCertVerifier> = match stapled {
        true => Arc::new(Stapled { inner: verifier, authorities: ocsp_authorities(tls)? }),
        false => verifier,
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match pairs(tls)?.into_iter().next() {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(refused)?,
        None => builder.with_no_client_auth(),
    };
    if stapled {
        config.resumption = rustls::client::Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// When the first certificate of the block ends, in seconds since 1970; `None` without one.
pub fn not_after_seconds(tls: &Tls) -> Option<i64> {
    let pair = tls.certificates.first()?;
    let chain = certificates("cert_file", &pair.cert_file).ok()?;
    accounts::CertificateFacts::from_der(chain.first()?).ok().map(|facts| facts.not_after_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(suites: &[&str], curves: &[&str]) -> Tls {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Tls { cipher_suites: texts(suites), curve_preferences: texts(curves), ..Tls::default() }
    }

    #[test]
    fn suites_and_curves_that_the_library_lacks_are_refused_unless_there_are_others() {
        let (has, lacks) = ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA");
        assert_eq!(lacking_suites(&asking(&[has, lacks, "TLS_AES_128_GCM_SHA256"], &[])), [lacks]);
        let chosen = provider(&asking(&[has, lacks], &["X25519", "CurveP521"])).unwrap();
        let suites = chosen.cipher_suites.iter().map(|suite| suite_name(*suite));
        assert_eq!(suites.filter(|name| !is_of_1_3(name)).collect::<Vec<_>>(), [has]);
        assert_eq!(chosen.kx_groups.len(), 1);
        for (tls, name) in [(asking(&[lacks], &[]), lacks), (asking(&[], &["CurveP521"]), "CurveP521")] {
            let error = provider(&tls).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
