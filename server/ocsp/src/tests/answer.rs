//! Responses and the certificates that they are about, made on the spot. Also for the tests of `node`.

#![allow(missing_docs, reason = "test support")]

use super::{Certificate, Status, request};
use jiff::Timestamp;
use rcgen::{CertificateParams, CustomExtension, KeyPair, SigningKey};

const SEQUENCE: u8 = 0x30;
/// ecdsa-with-SHA256
const ALGORITHM: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// Tag, length and contents.
fn encode(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let length = match length {
        0..0x80 => vec![length as u8],
        0x80..0x100 => vec![0x81, length as u8],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    };
    [vec![tag], length, contents.to_vec()].concat()
}

/// What is in a short value, without the sequences that come after the first.
fn inside(der: &[u8]) -> &[u8] {
    assert!(der[1] < 0x80);
    &der[2..2 + usize::from(der[1])]
}

/// Names of a responder for the extension.
pub fn with_responder(mut params: CertificateParams, url: &str) -> CertificateParams {
    let way = [vec![6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1], encode(0x86, url.as_bytes())].concat();
    let content = encode(SEQUENCE, &encode(SEQUENCE, &way));
    params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], content));
    params
}

/// Demands a response.
pub fn must_staple(mut params: CertificateParams) -> CertificateParams {
    let oid = [1, 3, 6, 1, 5, 5, 7, 1, 24];
    params.custom_extensions.push(CustomExtension::from_oid_content(&oid, vec![0x30, 3, 2, 1, 5]));
    params
}

/// GeneralizedTime.
fn time(millis: i64) -> Vec<u8> {
    let time = Timestamp::from_millisecond(millis).unwrap();
    encode(0x18, time.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
}

/// A response to be.
pub struct Answer<'a> {
    pub certificate: &'a Certificate,
    pub issuer: &'a Certificate,
    pub signer: &'a KeyPair,
    pub delegate: Option<&'a Certificate>,
    pub status: Status,
    pub this_update: i64,
    pub next_update: Option<i64>,
    pub without_status: bool,
}

impl Answer<'_> {
    /// Signed.
    pub fn der(&self) -> Vec<u8> {
        // the CertID, the innermost but the hashes of the request around it
        let request = request(self.certificate, self.issuer);
        let id = (0..4).fold(&request[..], |outer, _| inside(outer));
        let status = match self.status {
            _ if self.without_status => Vec::new(),
            Status::Good => vec![0x80, 0],
            Status::Revoked => encode(0xa1, &time(self.this_update)),
            Status::Unknown => vec![0x82, 0],
        };
        let next = self.next_update.map(|next| encode(0xa0, &time(next))).unwrap_or_default();
        let single = encode(SEQUENCE, &[id.to_vec(), status, time(self.this_update), next].concat());
        let responder = encode(0xa2, &encode(0x04, &[7; 20]));
        let data = [responder, time(self.this_update), encode(SEQUENCE, &single)].concat();
        let data = encode(SEQUENCE, &data);
        let signature = self.signer.sign(&data).unwrap();
        let signature = encode(0x03, &[vec![0], signature].concat());
        let certs =
            self.delegate.map(|delegate| encode(0xa0, &encode(SEQUENCE, delegate.der()))).unwrap_or_default();
        let basic = encode(SEQUENCE, &[data, ALGORITHM.to_vec(), signature, certs].concat());
        let bytes = [vec![6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1], encode(0x04, &basic)].concat();
        let bytes = encode(0xa0, &encode(SEQUENCE, &bytes));
        encode(SEQUENCE, &[vec![0x0a, 1, 0], bytes].concat())
    }
}
