//! The question for the status of one certificate.

use crate::certificate::Certificate;
use crate::der::{Values, encode};
use data_encoding::BASE64;
use ring::digest;
use x509_parser::asn1_rs::Tag;

const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
const INTEGER: u8 = 0x02;
/// AlgorithmIdentifier of SHA-1. It names an authority here and proves nothing; responders know no other.
const SHA1: &[u8] = &[0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];
/// Its object identifier, and that of SHA-256.
pub(crate) const SHA1_IDENTIFIER: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
pub(crate) const SHA256_IDENTIFIER: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];

/// Hashes that name an authority: of its name and of its key.
pub(crate) fn hashes(issuer: &Certificate, algorithm: &'static digest::Algorithm) -> [digest::Digest; 2] {
    [digest::digest(algorithm, &issuer.subject), digest::digest(algorithm, &issuer.key)]
}

/// The request (RFC 6960, 4.1.1) for the status of `certificate`, which `issuer` issued.
pub fn request(certificate: &Certificate, issuer: &Certificate) -> Vec<u8> {
    let [name, key] = hashes(issuer, &digest::SHA1_FOR_LEGACY_USE_ONLY);
    let mut id = SHA1.to_vec();
    id.extend(encode(OCTETS, name.as_ref()));
    id.extend(encode(OCTETS, key.as_ref()));
    id.extend(encode(INTEGER, &certificate.serial));
    // id, request, list, what is to be signed, and the whole that is not signed
    (0..5).fold(id, |inner, _| encode(SEQUENCE, &inner))
}

/// The request as part of a URL (RFC 6960, A.1).
pub fn url_of_request(responder: &str, request: &[u8]) -> String {
    let mut url = format!("{}/", responder.trim_end_matches('/'));
    for letter in BASE64.encode(request).chars() {
        match letter {
            '+' => url.push_str("%2B"),
            '/' => url.push_str("%2F"),
            '=' => url.push_str("%3D"),
            letter => url.push(letter),
        }
    }
    url
}

/// Whether a CertID names `certificate` of `issuer`. By hashes that are not known here, the serial decides alone.
pub(crate) fn names(id: Values<'_>, certificate: &Certificate, issuer: &Certificate) -> Option<bool> {
    let mut id = id;
    let identifier = id.take(Tag::Sequence)?.inside().take(Tag::Oid)?.contents;
    let (name, key) = (id.take(Tag::OctetString)?, id.take(Tag::OctetString)?);
    let serial = id.take(Tag::Integer)?.contents;
    let algorithm = match identifier {
        SHA1_IDENTIFIER => Some(&digest::SHA1_FOR_LEGACY_USE_ONLY),
        SHA256_IDENTIFIER => Some(&digest::SHA256),
        _ => None,
    };
    let is_issuer = algorithm.is_none_or(|algorithm| {
        let [of_name, of_key] = hashes(issuer, algorithm);
        of_name.as_ref() == name.contents && of_key.as_ref() == key.contents
    });
    Some(is_issuer && serial == certificate.serial)
}
