//! Taking DER apart, value by value, and putting together the little that a request needs.

use crate::Error;
use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};

/// One value.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    class: Class,
    tag: Tag,
    /// Without tag and length.
    pub contents: &'a [u8],
    /// With them.
    pub whole: &'a [u8],
}

impl<'a> Value<'a> {
    /// The values inside.
    pub fn inside(self) -> Values<'a> {
        Values(self.contents)
    }

    /// Number of a context-specific tag.
    pub fn context(&self) -> Option<u32> {
        (self.class == Class::ContextSpecific).then_some(self.tag.0)
    }

    /// Bytes of a bit string without unused bits.
    pub fn bits(&self) -> Option<&'a [u8]> {
        match self.contents.split_first() {
            Some((0, bits)) if self.is(Tag::BitString) => Some(bits),
            _ => None,
        }
    }

    pub fn is(&self, tag: Tag) -> bool {
        self.class == Class::Universal && self.tag == tag
    }
}

/// Values one after another.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a>(pub &'a [u8]);

impl<'a> Values<'a> {
    /// `None` at the end, and for what is no DER.
    pub fn any(&mut self) -> Option<Value<'a>> {
        let (rest, any) = Any::from_der(self.0).ok()?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Value { class: any.header.class(), tag: any.header.tag(), contents: any.data, whole })
    }

    /// The next value if it has this tag.
    pub fn take(&mut self, tag: Tag) -> Option<Value<'a>> {
        let mut ahead = *self;
        let value = ahead.any().filter(|value| value.is(tag))?;
        *self = ahead;
        Some(value)
    }

    /// The next value if it has this context-specific tag.
    pub fn take_context(&mut self, number: u32) -> Option<Value<'a>> {
        let mut ahead = *self;
        let value = ahead.any().filter(|value| value.context() == Some(number))?;
        *self = ahead;
        Some(value)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What certificates and responses have in common: contents, an algorithm, a signature.
pub(crate) struct Signed<'a> {
    /// What is signed, with tag and length.
    pub contents: Value<'a>,
    /// Inside of the algorithm's sequence.
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
    /// What comes behind the signature.
    pub rest: Values<'a>,
}

impl<'a> Signed<'a> {
    pub fn parse(der: &'a [u8]) -> Option<Signed<'a>> {
        let mut values = Values(der).take(Tag::Sequence)?.inside();
        let contents = values.take(Tag::Sequence)?;
        let algorithm = values.take(Tag::Sequence)?.contents;
        let signature = values.any()?.bits()?;
        Some(Signed { contents, algorithm, signature, rest: values })
    }

    /// Whether the owner of a key made the signature. `key_algorithm` and `key` are those of its
    /// SubjectPublicKeyInfo, without tag and length.
    pub fn verify(&self, what: &'static str, key_algorithm: &[u8], key: &[u8]) -> Result<(), Error> {
        let mut found = Error::Algorithm(what);
        for algorithm in webpki::ALL_VERIFICATION_ALGS {
            if algorithm.signature_alg_id().as_ref() == self.algorithm
                && algorithm.public_key_alg_id().as_ref() == key_algorithm
            {
                match algorithm.verify_signature(key, self.contents.whole, self.signature) {
                    Ok(()) => return Ok(()),
                    Err(_) => found = Error::Signature(what),
                }
            }
        }
        Err(found)
    }
}

/// Tag, length and contents.
pub(crate) fn encode(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match contents.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length => {
            let bytes = length.to_be_bytes();
            let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(contents);
    out
}

/// `fallible` errors of [`Signed::parse`] and its like.
pub(crate) fn malformed(what: &'static str) -> impl Fn() -> Error {
    move || Error::Malformed(what)
}

/// The first value in `der`.
pub(crate) fn sequence(der: &[u8]) -> Option<Values<'_>> {
    Some(Values(der).take(Tag::Sequence)?.inside())
}

/// A point in time as GeneralizedTime or UTCTime, in milliseconds since 1970.
pub(crate) fn time_millis(value: Value<'_>) -> Option<i64> {
    let (_, time) = x509_parser::time::ASN1Time::from_der(value.whole).ok()?;
    time.timestamp().checked_mul(1000)
}
