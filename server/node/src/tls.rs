//! TLS settings made into rustls configurations.
//!
//! Owns the reading of certificate files. Never logs key material; errors name the file, not its content.

mod peers;

use peers::{Demanding, NobodyTrusted, Unverified};
pub use peers::{Demands, RouteNames};

use config::tls::{Tls, TlsVersion};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCertUsingSni, WebPkiClientVerifier};
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
    if !tls.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| {
            let name = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
            // versions other than 1.2 have suites of their own that cannot be chosen, as in Go
            name.starts_with("TLS_AES_")
                || name.starts_with("TLS_CHACHA20")
                || tls
                    .cipher_suites
                    .iter()
                    .any(|wanted| wanted.trim_end_matches("_SHA256") == name.trim_end_matches("_SHA256"))
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

fn pairs(tls: &Tls) -> Result<Vec<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, Error> {
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
pub fn server_config(tls: &Tls, verify: bool, demands: &Demands) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider(tls)?;
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
    let builder = match verifier {
        Some(inner) if !demands.is_empty() => {
            builder.with_client_cert_verifier(Arc::new(Demanding { inner, demands: demands.clone() }))
        }
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut pairs = pairs(tls)?;
    let config = match pairs.len() {
        0 => return Err(Error::NoCertificate),
        1 => {
            let (chain, key) = pairs.remove(0);
            builder.with_single_cert(chain, key).map_err(refused)?
        }
        _ => {
            let first =
                rustls::sign::CertifiedKey::from_der(pairs[0].0.clone(), pairs[0].1.clone_key(), &provider)
                    .map_err(refused)?;
            builder.with_cert_resolver(Arc::new(ByName {
                names: by_name(&pairs, &provider)?,
                first: Arc::new(first),
            }))
        }
    };
    Ok(Arc::new(config))
}

/// Several certificates: the one whose name the client asks for, else the first.
#[derive(Debug)]
struct ByName {
    names: ResolvesServerCertUsingSni,
    first: Arc<rustls::sign::CertifiedKey>,
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn by_name(pairs: &[Pair], provider: &CryptoProvider) -> Result<ResolvesServerCertUsingSni, Error> {
    let mut names = ResolvesServerCertUsingSni::new();
    for (chain, key) in pairs {
        let certified = rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), provider)
            .map_err(refused)?;
        let parsed = webpki::EndEntityCert::try_from(&chain[0]).map_err(refused)?;
        for name in parsed.valid_dns_names() {
            // wildcard names cannot be looked up: the first certificate stays the answer
            let _ = names.add(name, certified.clone());
        }
    }
    Ok(names)
}

impl rustls::server::ResolvesServerCert for ByName {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.names.resolve(hello).or_else(|| Some(self.first.clone()))
    }
}

/// For opening connections to other servers, whose certificates must be as `demands` say.
///
/// # Errors
/// [`Error`], naming the file.
pub fn client_config(tls: &Tls, demands: &Demands) -> Result<Arc<ClientConfig>, Error> {
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
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match pairs(tls)?.into_iter().next() {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(refused)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// When the first certificate of the block ends, in seconds since 1970; `None` without one.
pub fn not_after_seconds(tls: &Tls) -> Option<i64> {
    let pair = tls.certificates.first()?;
    let chain = certificates("cert_file", &pair.cert_file).ok()?;
    accounts::CertificateFacts::from_der(chain.first()?).ok().map(|facts| facts.not_after_seconds)
}
