//! `tls { … }` blocks. Owns their keys and which combinations make sense; reads no certificate: paths are
//! checked by whoever opens them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::duration;
use crate::grammar::Value;
use crate::ocsp::{self, OcspPeer};
use crate::reader::{Field, Reader, assign};
use crate::tree::Tree;

/// Default of [`Tls::timeout`].
pub const TLS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long `handshake_first: auto` waits before it falls back to INFO first.
pub const HANDSHAKE_FIRST_FALLBACK: Duration = Duration::from_millis(50);

/// TLS for one kind of connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificates with their keys. `cert_file` and `key_file` make one pair, `certs` any number.
    pub certificates: Vec<CertificatePair>,
    /// File of the authorities that the other side's certificate is checked against.
    pub ca_file: Option<String>,
    /// The other side must show a certificate. Routes always check, whatever this says.
    pub verify: bool,
    /// The certificate's names choose the user. Implies [`Tls::verify`].
    pub verify_and_map: bool,
    /// The certificate must be for one of the configured URLs. Routes only; implies [`Tls::verify`].
    pub verify_cert_and_check_known_urls: bool,
    /// As client: the other side's certificate is not checked.
    pub insecure: bool,
    /// Time for the handshake.
    pub timeout: Duration,
    /// Handshakes a second; 0: no bound.
    pub connection_rate_limit: u32,
    /// Allowed suites by their IANA names; empty: the library's choice.
    pub cipher_suites: Vec<String>,
    /// Suites known to be weak may be listed.
    pub allow_insecure_cipher_suites: bool,
    /// Allowed curves by nats-server's names; empty: the library's choice.
    pub curve_preferences: Vec<String>,
    /// SHA-256 (lower-case hex) of the public keys (DER SubjectPublicKeyInfo) accepted; empty: any.
    pub pinned_certs: BTreeSet<String>,
    /// Whether the handshake comes before INFO.
    pub handshake_first: HandshakeFirst,
    /// Lowest version spoken.
    pub min_version: TlsVersion,
    /// Clients' certificates are checked by OCSP. For routes it is read and nothing else: `ocsp` is theirs.
    pub ocsp_peer: Option<OcspPeer>,
}

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePair {
    /// PEM file of the chain.
    pub cert_file: String,
    /// PEM file of the key.
    pub key_file: String,
}

/// Whether the TLS handshake comes before INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandshakeFirst {
    /// INFO first, as clients expect by default.
    #[default]
    Off,
    /// Handshake first; clients that wait for INFO fail.
    On,
    /// Handshake first, but INFO after this long without one.
    Fallback(Duration),
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2, the lowest that nats-server speaks.
    #[default]
    V1_2,
    /// 1.3
    V1_3,
}

impl Default for Tls {
    fn default() -> Self {
        Tls {
            certificates: Vec::new(),
            ca_file: None,
            verify: false,
            verify_and_map: false,
            verify_cert_and_check_known_urls: false,
            insecure: false,
            timeout: TLS_TIMEOUT,
            connection_rate_limit: 0,
            cipher_suites: Vec::new(),
            allow_insecure_cipher_suites: false,
            curve_preferences: Vec::new(),
            pinned_certs: BTreeSet::new(),
            handshake_first: HandshakeFirst::Off,
            min_version: TlsVersion::V1_2,
            ocsp_peer: None,
        }
    }
}

/// What a block is for, which decides about a few keys.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum TlsContext {
    /// Clients, or this server as a client of a resolver.
    Client,
    /// Other servers.
    Route,
}

/// Suites that Go knows and counts as safe.
const CIPHERS: [&str; 13] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Suites that Go knows and counts as weak.
const WEAK_CIPHERS: [&str; 11] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// Curves by nats-server's names.
const CURVES: [&str; 7] = [
    "SecP384r1MLKEM1024",
    "SecP256r1MLKEM768",
    "X25519MLKEM768",
    "X25519",
    "CurveP256",
    "CurveP384",
    "CurveP521",
];

pub(crate) const KEYS: &[&str] = &[
    "cert_file",
    "key_file",
    "ca_file",
    "insecure",
    "verify",
    "verify_and_map",
    "verify_cert_and_check_known_urls",
    "allow_insecure_cipher_suites",
    "cipher_suites",
    "curve_preferences",
    "timeout",
    "connection_rate_limit",
    "pinned_certs",
    "cert_store",
    "cert_match_by",
    "cert_match",
    "ca_certs_match",
    "handshake_first",
    "first",
    "immediate",
    "cert_match_skip_invalid",
    "ocsp_peer",
    "certs",
    "certificates",
    "min_version",
];

/// Reads a block; `None` if it could not be read at all.
pub(crate) fn read(block: &Field<'_>, context: TlsContext, reader: &mut Reader) -> Option<Tls> {
    let map = block.map(reader)?;
    let mut tls = Tls::default();
    let (mut cert_file, mut key_file) = (None, None);
    for field in reader.fields(map) {
        match field.key.as_str() {
            "cert_file" => cert_file = field.optional(reader).flatten(),
            "key_file" => key_file = field.optional(reader).flatten(),
            "ca_file" => tls.ca_file = field.optional(reader).flatten(),
            "insecure" => assign(&mut tls.insecure, field.boolean(reader)),
            "verify" => tls.verify |= field.boolean(reader).unwrap_or(false),
            "verify_and_map" => assign(&mut tls.verify_and_map, field.boolean(reader)),
            "verify_cert_and_check_known_urls" => {
                let wanted = field.boolean(reader).unwrap_or(false);
                if wanted && context == TlsContext::Client {
                    field.problem(
                        reader,
                        "verify_cert_and_check_known_urls not supported in this context: it is for clusters",
                    );
                }
                tls.verify_cert_and_check_known_urls = wanted;
            }
            "allow_insecure_cipher_suites" => {
                assign(&mut tls.allow_insecure_cipher_suites, field.boolean(reader))
            }
            "cipher_suites" => {
                assign(&mut tls.cipher_suites, names(&field, &[&CIPHERS, &WEAK_CIPHERS], "cipher", reader))
            }
            "curve_preferences" => {
                assign(&mut tls.curve_preferences, names(&field, &[&CURVES], "curve preference", reader))
            }
            "timeout" => assign(&mut tls.timeout, field.timeout(reader).filter(|t| !t.is_zero())),
            "connection_rate_limit" => {
                assign(&mut tls.connection_rate_limit, field.within(reader, 0, i64::from(u32::MAX)));
            }
            "pinned_certs" => assign(&mut tls.pinned_certs, pinned_certs(&field, reader)),
            "handshake_first" | "first" | "immediate" => {
                assign(&mut tls.handshake_first, handshake_first(&field, reader))
            }
            "certs" | "certificates" => assign(&mut tls.certificates, certificate_pairs(&field, reader)),
            "min_version" => assign(&mut tls.min_version, min_version(&field, reader)),
            "ocsp_peer" => tls.ocsp_peer = ocsp::peer(&field, reader),
            "cert_store" | "cert_match_by" | "cert_match" | "ca_certs_match" | "cert_match_skip_invalid" => {
                field.problem(reader, format!("{:?} is for Windows' certificate store, which is not supported; use cert_file and key_file", field.written));
            }
            _ => {
                if !field.node.is_variable {
                    let near = crate::reader::nearest(&field.key, KEYS);
                    let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                    field.problem(
                        reader,
                        format!("error parsing tls config, unknown field {:?}{hint}", field.written),
                    );
                }
            }
        }
    }
    tls.verify |= tls.verify_and_map || tls.verify_cert_and_check_known_urls;
    match (cert_file, key_file) {
        (Some(_), _) if !tls.certificates.is_empty() => {
            block.problem(
                reader,
                "error parsing tls config, cannot combine 'cert_file' option with 'certs' option",
            );
        }
        (Some(cert_file), Some(key_file)) => tls.certificates = vec![CertificatePair { cert_file, key_file }],
        (Some(_), None) => block.problem(reader, "missing 'key_file' in TLS configuration"),
        (None, Some(_)) => block.problem(reader, "missing 'cert_file' in TLS configuration"),
        (None, None) => {}
    }
    let checks_clients =
        context == TlsContext::Client && tls.ocsp_peer.as_ref().is_some_and(|peer| peer.verify);
    if checks_clients && !tls.verify {
        block.problem(
            reader,
            "OCSP peer verification for client connections requires TLS verify (mTLS) to be enabled",
        );
    }
    let weak: Vec<&str> =
        tls.cipher_suites.iter().map(String::as_str).filter(|name| WEAK_CIPHERS.contains(name)).collect();
    if !tls.allow_insecure_cipher_suites && !weak.is_empty() {
        block.problem(
            reader,
            format!(
                "insecure cipher suites configured without 'allow_insecure_cipher_suites' option set: {}",
                weak.join(", ")
            ),
        );
    }
    Some(tls)
}

/// A list of names, each of which must be known.
fn names(field: &Field<'_>, known: &[&[&str]], kind: &str, reader: &mut Reader) -> Option<Vec<String>> {
    field.array(reader)?;
    let names = field.strings(reader)?;
    if names.is_empty() {
        field.problem(reader, format!("error parsing tls config, '{}' cannot be empty", field.key));
    }
    for name in &names {
        if !known.iter().any(|list| list.contains(&name.as_str())) {
            field.problem(reader, format!("unrecognized {kind} {name}; --help_tls lists those known"));
        }
    }
    Some(names)
}

fn pinned_certs(field: &Field<'_>, reader: &mut Reader) -> Option<BTreeSet<String>> {
    field.array(reader)?;
    let hashes = field.strings(reader)?;
    let mut pinned = BTreeSet::new();
    for hash in hashes {
        let hash = hash.to_lowercase();
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            field.problem(
                reader,
                format!(
                    "error parsing tls config, 'pinned_certs' key {hash} does not look like hex-encoded sha256 of \
                     DER encoded SubjectPublicKeyInfo"
                ),
            );
        }
        pinned.insert(hash);
    }
    Some(pinned)
}

fn handshake_first(field: &Field<'_>, reader: &mut Reader) -> Option<HandshakeFirst> {
    let text = match &field.node.value {
        Value::Boolean(true) => return Some(HandshakeFirst::On),
        Value::Boolean(false) => return Some(HandshakeFirst::Off),
        Value::String(text) => text,
        other => {
            let kind = other.kind();
            field.problem(
                reader,
                format!("field {:?} should be a boolean or a string, found {kind}", field.written),
            );
            return None;
        }
    };
    match text.to_lowercase().as_str() {
        "true" | "on" => Some(HandshakeFirst::On),
        "false" | "off" => Some(HandshakeFirst::Off),
        "auto" | "auto_fallback" => Some(HandshakeFirst::Fallback(HANDSHAKE_FIRST_FALLBACK)),
        _ => match duration::parse(text) {
            Ok(delay) if delay.is_zero() => Some(HandshakeFirst::On),
            Ok(delay) => Some(HandshakeFirst::Fallback(delay)),
            Err(_) => {
                let message = format!(
                    "field {:?}'s value {text:?} is invalid; use true, false, auto or a duration such as \"300ms\"",
                    field.written
                );
                field.problem(reader, message);
                None
            }
        },
    }
}

fn certificate_pairs(field: &Field<'_>, reader: &mut Reader) -> Option<Vec<CertificatePair>> {
    let mut pairs = Vec::new();
    for node in field.array(reader)? {
        let Value::Map(map) = &node.value else {
            reader.problem(
                &node.position,
                format!("error parsing certificates config: expected a map, found {}", node.value.kind()),
            );
            continue;
        };
        let mut pair = CertificatePair { cert_file: String::new(), key_file: String::new() };
        for part in reader.fields(map) {
            match part.key.as_str() {
                "cert_file" => assign(&mut pair.cert_file, part.string(reader)),
                "key_file" => assign(&mut pair.key_file, part.string(reader)),
                _ => part.problem(
                    reader,
                    format!("error parsing tls certs config, unknown field {:?}", part.written),
                ),
            }
        }
        if pair.cert_file.is_empty() || pair.key_file.is_empty() {
            reader.problem(
                &node.position,
                "error parsing certificates config: both 'cert_file' and 'key_file' options are required",
            );
        }
        pairs.push(pair);
    }
    Some(pairs)
}

fn min_version(field: &Field<'_>, reader: &mut Reader) -> Option<TlsVersion> {
    let text = field.string(reader)?;
    match text.as_str() {
        "1.2" => Some(TlsVersion::V1_2),
        "1.3" => Some(TlsVersion::V1_3),
        "1.0" | "1.1" => {
            field.problem(
                reader,
                format!(
                    "error parsing tls config: unsupported TLS version: TLS {text}; use \"1.2\" or \"1.3\""
                ),
            );
            None
        }
        _ => {
            field.problem(
                reader,
                format!("error parsing tls config: unknown version {text:?}; use \"1.2\" or \"1.3\""),
            );
            None
        }
    }
}

impl Tls {
    pub(crate) fn tree(&self) -> Tree {
        let default = Tls::default();
        let mut tree = Tree::default();
        match self.certificates.as_slice() {
            [pair] => {
                tree.string("cert_file", &pair.cert_file);
                tree.string("key_file", &pair.key_file);
            }
            pairs => {
                let trees = pairs.iter().map(|pair| {
                    let mut tree = Tree::default();
                    tree.string("cert_file", &pair.cert_file);
                    tree.string("key_file", &pair.key_file);
                    tree
                });
                tree.trees("certs", trees.collect());
            }
        }
        tree.optional("ca_file", &self.ca_file);
        tree.boolean("insecure", self.insecure, false);
        let implied = self.verify_and_map || self.verify_cert_and_check_known_urls;
        tree.boolean("verify", self.verify, implied);
        tree.boolean("verify_and_map", self.verify_and_map, false);
        tree.boolean("verify_cert_and_check_known_urls", self.verify_cert_and_check_known_urls, false);
        tree.duration("timeout", self.timeout, default.timeout);
        tree.integer("connection_rate_limit", self.connection_rate_limit, 0);
        tree.strings("cipher_suites", &self.cipher_suites);
        tree.boolean("allow_insecure_cipher_suites", self.allow_insecure_cipher_suites, false);
        tree.strings("curve_preferences", &self.curve_preferences);
        tree.strings("pinned_certs", &self.pinned_certs);
        match self.handshake_first {
            HandshakeFirst::Off => {}
            HandshakeFirst::On => tree.boolean("handshake_first", true, false),
            HandshakeFirst::Fallback(delay) => tree.string("handshake_first", &duration::render(delay)),
        }
        if self.min_version == TlsVersion::V1_3 {
            tree.string("min_version", "1.3");
        }
        if let Some(peer) = &self.ocsp_peer {
            tree.tree("ocsp_peer", peer.tree());
        }
        tree
    }
}

/// The names that `--help_tls` prints: cipher suites and curves.
pub(crate) fn known_names() -> (Vec<&'static str>, &'static [&'static str]) {
    (CIPHERS.iter().chain(&WEAK_CIPHERS).copied().collect(), &CURVES)
}
