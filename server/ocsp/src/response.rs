//! Reading a response, and whether somebody who may has signed it.

use crate::Error;
use crate::certificate::Certificate;
use crate::der::{Signed, Value, Values, malformed, sequence, time_millis};
use crate::request::names;
use x509_parser::asn1_rs::Tag;

const WHAT: &str = "the response";
/// id-pkix-ocsp-basic (RFC 6960, 4.2.1).
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// What an authority says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It is not revoked.
    Good,
    /// It is revoked.
    Revoked,
    /// The responder does not know it.
    Unknown,
}

impl Status {
    /// The word for it in logs, events and files.
    pub fn name(self) -> &'static str {
        match self {
            Status::Good => "good",
            Status::Revoked => "revoked",
            Status::Unknown => "unknown",
        }
    }

    /// Of a file; words that say nothing are not taken for good.
    pub fn from_name(name: &str) -> Status {
        match name {
            "good" => Status::Good,
            "revoked" => Status::Revoked,
            _ => Status::Unknown,
        }
    }
}

/// A response about one certificate whose signature is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// What it says.
    pub status: Status,
    /// When that was known to be so.
    pub this_update_millis: i64,
    /// When there will be news, if the responder says so.
    pub next_update_millis: Option<i64>,
}

impl Response {
    /// Reads the response about `certificate`, signed by its `issuer` or by whom the issuer allowed to. Whether it is
    /// current is another question.
    ///
    /// # Errors
    /// [`Error`]; [`Error::NotDelegated`] if the only objection is that the signer may not sign responses.
    pub fn parse(der: &[u8], certificate: &Certificate, issuer: &Certificate) -> Result<Response, Error> {
        let basic = basic(der)?;
        let mut signed = Signed::parse(basic).ok_or_else(malformed(WHAT))?;
        let response = single(signed.contents, certificate, issuer)?;
        match delegate(&mut signed.rest)? {
            Some(delegate) if delegate.der() != issuer.der() => {
                signed.verify(WHAT, &delegate.key_algorithm, &delegate.key)?;
                issuer.verify(&delegate).map_err(|_| Error::Signature("the signer of the response"))?;
                if !delegate.may_sign_responses {
                    return Err(Error::NotDelegated);
                }
            }
            _ => signed.verify(WHAT, &issuer.key_algorithm, &issuer.key)?,
        }
        Ok(response)
    }
}

/// The BasicOCSPResponse inside.
fn basic(der: &[u8]) -> Result<&[u8], Error> {
    let mut response = sequence(der).ok_or_else(malformed(WHAT))?;
    match response.take(Tag::Enumerated).ok_or_else(malformed(WHAT))?.contents {
        [0] => {}
        [1] => return Err(Error::Responder("that the request is malformed")),
        [2] => return Err(Error::Responder("with an internal error")),
        [3] => return Err(Error::Responder("to try later")),
        [5] => return Err(Error::Responder("that requests must be signed")),
        [6] => return Err(Error::Responder("that it is not allowed to ask")),
        _ => return Err(Error::Malformed(WHAT)),
    }
    let inner = || {
        let mut bytes = sequence(response.clone().take_context(0)?.contents)?;
        let kind = bytes.take(Tag::Oid)?.contents;
        (kind == BASIC).then_some(bytes.take(Tag::OctetString)?.contents)
    };
    inner().ok_or_else(malformed(WHAT))
}

/// The status of one certificate among those in the response.
fn single(data: Value<'_>, certificate: &Certificate, issuer: &Certificate) -> Result<Response, Error> {
    let list = || {
        let mut data = data.inside();
        data.take_context(0);
        // who responds: the signature says it better
        data.any()?.context()?;
        data.take(Tag::GeneralizedTime)?;
        Some(data.take(Tag::Sequence)?.inside())
    };
    let mut list = list().ok_or_else(malformed(WHAT))?;
    while !list.is_empty() {
        let one = || -> Option<Option<Response>> {
            let mut single = list.clone().take(Tag::Sequence)?.inside();
            if !names(single.take(Tag::Sequence)?.inside(), certificate, issuer)? {
                return Some(None);
            }
            let status = match single {
                _ if single.take_context(0).is_some() => Status::Good,
                _ if single.take_context(2).is_some() => Status::Unknown,
                // responders written in Go leave out a "revoked" without a date; it is also the safe reading
                _ => {
                    single.take_context(1);
                    Status::Revoked
                }
            };
            let this_update_millis = time_millis(single.take(Tag::GeneralizedTime)?)?;
            let next_update_millis = match single.take_context(0) {
                Some(next) => Some(time_millis(next.inside().any()?)?),
                None => None,
            };
            if let Some(extensions) = single.take_context(1)
                && has_critical(extensions)?
            {
                return None;
            }
            Some(Some(Response { status, this_update_millis, next_update_millis }))
        };
        if let Some(found) = one().ok_or_else(malformed(WHAT))? {
            return Ok(found);
        }
        list.any();
    }
    Err(Error::OtherCertificate)
}

/// Whether there is an extension that must be understood; none is here.
fn has_critical(extensions: Value<'_>) -> Option<bool> {
    let mut list = extensions.inside().take(Tag::Sequence)?.inside();
    while !list.is_empty() {
        let mut extension = list.take(Tag::Sequence)?.inside();
        extension.take(Tag::Oid)?;
        if extension.take(Tag::Boolean).is_some_and(|critical| critical.contents != [0]) {
            return Some(true);
        }
    }
    Some(false)
}

/// The certificate that was sent along for the signature.
fn delegate(rest: &mut Values<'_>) -> Result<Option<Certificate>, Error> {
    let Some(list) = rest.take_context(0) else { return Ok(None) };
    let mut list = list.inside().take(Tag::Sequence).ok_or_else(malformed(WHAT))?.inside();
    match list.any() {
        Some(first) => Certificate::from_der(first.whole).map(Some),
        None => Ok(None),
    }
}
