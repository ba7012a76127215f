//! The facts of a certificate that OCSP needs.

use crate::Error;
use crate::der::{Signed, Values, malformed, sequence};
use data_encoding::BASE64;
use ring::digest;
use std::fmt::Write;
use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

const WHAT: &str = "the certificate";
/// id-ad-ocsp (RFC 5280, 4.2.2.1).
const ACCESS_BY_OCSP: &str = "1.3.6.1.5.5.7.48.1";
/// id-pe-tlsfeature (RFC 7633).
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";
/// status_request among the extensions of a hello (RFC 6066).
const STATUS_REQUEST: u8 = 5;

/// A certificate, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    /// DER of the names.
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    /// Contents of the integer.
    pub(crate) serial: Vec<u8>,
    /// Inside of the sequence of the key's algorithm.
    pub(crate) key_algorithm: Vec<u8>,
    /// Bits of the key.
    pub(crate) key: Vec<u8>,
    /// URLs of the responders that its authority names, in the certificate's order.
    pub responders: Vec<String>,
    /// TLS servers must staple a response to it ("must-staple").
    pub must_staple: bool,
    /// It may sign certificates.
    pub is_authority: bool,
    /// It may sign responses for the authority that issued it.
    pub may_sign_responses: bool,
    /// The subject in words (RFC 2253).
    pub subject_name: String,
    /// The issuer in words.
    pub issuer_name: String,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`Error::Malformed`]
    pub fn from_der(der: &[u8]) -> Result<Certificate, Error> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| Error::Malformed(WHAT))?;
        let key_info = sequence(parsed.tbs_certificate.subject_pki.raw);
        let mut key_info = key_info.ok_or_else(malformed(WHAT))?;
        let key_algorithm = key_info.take(Tag::Sequence).ok_or_else(malformed(WHAT))?.contents;
        let mut certificate = Certificate {
            der: der.to_vec(),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            serial: parsed.raw_serial().to_vec(),
            key_algorithm: key_algorithm.to_vec(),
            key: key_info.any().and_then(|key| key.bits()).ok_or_else(malformed(WHAT))?.to_vec(),
            responders: Vec::new(),
            must_staple: false,
            is_authority: false,
            may_sign_responses: false,
            subject_name: words(parsed.subject()),
            issuer_name: words(parsed.issuer()),
        };
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityInfoAccess(access) => {
                    let by_ocsp = access.accessdescs.iter();
                    let by_ocsp = by_ocsp.filter(|way| way.access_method.to_id_string() == ACCESS_BY_OCSP);
                    certificate.responders.extend(by_ocsp.filter_map(|way| match way.access_location {
                        GeneralName::URI(url) => Some(url.to_owned()),
                        _ => None,
                    }));
                }
                ParsedExtension::BasicConstraints(constraints) => certificate.is_authority = constraints.ca,
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    certificate.may_sign_responses = usage.ocsp_signing;
                }
                _ if extension.oid.to_id_string() == TLS_FEATURE => {
                    certificate.must_staple = lists_status_request(extension.value);
                }
                _ => {}
            }
        }
        Ok(certificate)
    }

    /// The bytes that it was read from.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the certificate in base64, the name of its response in a cache and in events.
    pub fn fingerprint(&self) -> String {
        BASE64.encode(self.sha256().as_ref())
    }

    /// The same in hexadecimal, the name of its response in `store_dir`.
    pub fn file_name(&self) -> String {
        data_encoding::HEXLOWER.encode(self.sha256().as_ref())
    }

    fn sha256(&self) -> digest::Digest {
        digest::digest(&digest::SHA256, &self.der)
    }

    /// Whether the owner of this certificate's key signed `other`.
    ///
    /// # Errors
    /// [`Error::Signature`], [`Error::Algorithm`]
    pub(crate) fn verify(&self, other: &Certificate) -> Result<(), Error> {
        let signed = Signed::parse(&other.der).ok_or_else(malformed(WHAT))?;
        signed.verify(WHAT, &self.key_algorithm, &self.key)
    }
}

/// A sequence of numbers with [`STATUS_REQUEST`] among them.
fn lists_status_request(value: &[u8]) -> bool {
    let Some(mut numbers) = Values(value).any().map(|list| list.inside()) else { return false };
    while let Some(number) = numbers.take(Tag::Integer) {
        if number.contents == [STATUS_REQUEST] {
            return true;
        }
    }
    false
}

/// A name as RFC 2253 writes it: the last part first.
fn words(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for part in name.iter().collect::<Vec<_>>().into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        for (place, attribute) in part.iter().enumerate() {
            if place > 0 {
                text.push('+');
            }
            let kind = attribute.attr_type().to_id_string();
            let value = attribute.as_str();
            match (short_name(&kind), value) {
                (Some(short), Ok(value)) => {
                    let _ = write!(text, "{short}={}", escaped(value));
                }
                _ => {
                    let value = data_encoding::HEXLOWER.encode(attribute.attr_value().data);
                    let _ = write!(text, "{kind}=#{value}");
                }
            }
        }
    }
    text
}

fn short_name(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "2.5.4.3" => "CN",
        "2.5.4.5" => "SERIALNUMBER",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.17" => "POSTALCODE",
        _ => return None,
    })
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (place, letter) in value.chars().enumerate() {
        let at_end = place == 0 || place == last;
        if ",+\"\\<>;".contains(letter) || (letter == ' ' && at_end) || (letter == '#' && place == 0) {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}
