//! Names in client certificates, for `verify_and_map`.
//!
//! Owns reading them out of a certificate, the spellings under which a user may be configured, and
//! comparing distinguished names. Never verifies a certificate: TLS did.

use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("client certificate cannot be read: {0}")]
pub struct CertificateError(String);

/// The names in one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// Alternative names that are e-mail addresses.
    pub emails: Vec<String>,
    /// Alternative names that are host names.
    pub dns_names: Vec<String>,
    /// Alternative names that are URIs.
    pub uris: Vec<String>,
    /// The subject in the certificate's order: sets of dotted object identifier and value.
    pub subject: Vec<Vec<(String, String)>>,
}

/// Attribute types with a short name, in the order in which Go writes a subject since 1.25.
const ATTRIBUTES: [(&str, &str); 9] = [
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.3", "CN"),
    ("2.5.4.11", "OU"),
    ("2.5.4.10", "O"),
    ("2.5.4.17", "POSTALCODE"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.6", "C"),
];
const DOMAIN_COMPONENT: &str = "0.9.2342.19200300.100.1.25";

impl CertificateNames {
    /// Reads the names of a certificate in DER.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn from_der(der: &[u8]) -> Result<CertificateNames, CertificateError> {
        let error = |error: &dyn std::fmt::Display| CertificateError(error.to_string());
        let (_, certificate) = X509Certificate::from_der(der).map_err(|problem| error(&problem))?;
        let mut names = CertificateNames::default();
        let alternatives = certificate.subject_alternative_name().map_err(|problem| error(&problem))?;
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::RFC822Name(text) => names.emails.push((*text).into()),
                GeneralName::DNSName(text) => names.dns_names.push((*text).into()),
                GeneralName::URI(text) => names.uris.push((*text).into()),
                _ => {}
            }
        }
        for set in certificate.subject().iter_rdn() {
            let attributes = set.iter().filter_map(|attribute| {
                Some((attribute.attr_type().to_id_string(), attribute.as_str().ok()?.to_owned()))
            });
            names.subject.push(attributes.collect());
        }
        Ok(names)
    }

    /// Whether a name, or the subject as a text, is `user`: for routes, which are not matched by distinguished
    /// names.
    pub fn has_name(&self, user: &str) -> bool {
        self.alternatives().any(|name| name == user) || self.subjects().iter().any(|name| name == user)
    }

    /// Names under which the user may be configured, in the order in which nats-server looks: e-mail
    /// addresses, hosts and URIs before the subject is compared as a distinguished name.
    pub(crate) fn alternatives(&self) -> impl Iterator<Item = &str> {
        self.emails.iter().chain(&self.dns_names).chain(&self.uris).map(String::as_str)
    }

    /// The subject as a distinguished name, most specific first; nothing if an attribute has no short name.
    pub(crate) fn distinguished_name(&self) -> Option<DistinguishedName> {
        let set = |set: &Vec<(String, String)>| {
            let named =
                |(kind, value): &(String, String)| Some((short_name(kind)?.to_owned(), value.clone()));
            set.iter().map(named).collect::<Option<Vec<_>>>()
        };
        let sets: Option<Vec<_>> = self.subject.iter().rev().filter(|set| !set.is_empty()).map(set).collect();
        sets.map(DistinguishedName)
    }

    /// Texts of the subject under which the user may be configured: with domain components, if there are any,
    /// and without.
    pub(crate) fn subjects(&self) -> Vec<String> {
        let all = || self.subject.iter().flatten();
        let mut parts = Vec::new();
        for (oid, name) in ATTRIBUTES {
            let mut values: Vec<String> = all()
                .filter(|(kind, _)| kind == oid)
                .map(|(_, value)| format!("{name}={}", escaped(value)))
                .collect();
            if matches!(name, "CN" | "SERIALNUMBER") {
                values = values.pop().into_iter().collect();
            }
            if !values.is_empty() {
                parts.push(values.join("+"));
            }
        }
        let plain = parts.join(",");
        let domain =
            all().filter(|(kind, _)| kind == DOMAIN_COMPONENT).map(|(_, value)| format!("DC={value}"));
        let domain = domain.collect::<Vec<_>>().join(",");
        let mut subjects = Vec::new();
        if !domain.is_empty() {
            subjects.push(format!("{plain},{domain}"));
        }
        if !plain.is_empty() {
            subjects.push(plain);
        }
        subjects
    }
}

/// What else of a certificate is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// SHA-256 of the public key (DER SubjectPublicKeyInfo) in lower-case hexadecimal, as in `pinned_certs`.
    pub key_sha256: String,
    /// SHA-256 of the certificate (DER) in lower-case hexadecimal.
    pub certificate_sha256: String,
    /// The subject's distinguished name, as Go writes it.
    pub subject: String,
    /// End of its validity, in seconds since 1970.
    pub not_after_seconds: i64,
}

impl CertificateFacts {
    /// Reads them from a certificate in DER.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn from_der(der: &[u8]) -> Result<CertificateFacts, CertificateError> {
        let parsed = X509Certificate::from_der(der);
        let (_, certificate) = parsed.map_err(|problem| CertificateError(problem.to_string()))?;
        let digest = |bytes: &[u8]| data_encoding::HEXLOWER.encode(&Sha256::digest(bytes));
        let names = CertificateNames::from_der(der).unwrap_or_default();
        Ok(CertificateFacts {
            key_sha256: digest(certificate.public_key().raw),
            certificate_sha256: digest(certificate.as_raw()),
            subject: names.subjects().pop().unwrap_or_default(),
            not_after_seconds: certificate.validity().not_after.timestamp(),
        })
    }
}

fn short_name(oid: &str) -> Option<&'static str> {
    if oid == DOMAIN_COMPONENT {
        return Some("DC");
    }
    ATTRIBUTES.iter().find(|(kind, _)| *kind == oid).map(|(_, name)| *name)
}

/// RFC 2253 escapes, as Go writes them.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        let special = match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            '#' => index == 0,
            ' ' => index == 0 || index == last,
            _ => false,
        };
        if special {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// A distinguished name: sets of type and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DistinguishedName(Vec<Vec<(String, String)>>);

impl DistinguishedName {
    /// Reads the text form of RFC 4514, `CN=a,OU=b+OU=c`; nothing for other texts.
    pub fn parse(text: &str) -> Option<DistinguishedName> {
        let mut sets = vec![Vec::new()];
        for (part, separator) in split(text)? {
            let (kind, value) = part;
            sets.last_mut()?.push((kind, value));
            if separator == Some(',') {
                sets.push(Vec::new());
            }
        }
        sets.retain(|set| !set.is_empty());
        (!sets.is_empty()).then_some(DistinguishedName(sets))
    }

    /// Equal in order.
    pub fn is_equal(&self, other: &DistinguishedName) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| same_set(a, b))
    }

    /// Equal in any order.
    pub fn is_permutation(&self, other: &DistinguishedName) -> bool {
        let mut left: Vec<_> = other.0.iter().collect();
        let taken =
            self.0.iter().all(|set| match left.iter().position(|candidate| same_set(set, candidate)) {
                Some(at) => {
                    left.remove(at);
                    true
                }
                None => false,
            });
        taken && left.is_empty()
    }
}

fn same_set(a: &[(String, String)], b: &[(String, String)]) -> bool {
    let has = |set: &[(String, String)], (kind, value): &(String, String)| {
        set.iter().any(|(other, text)| other.eq_ignore_ascii_case(kind) && text == value)
    };
    a.len() == b.len() && a.iter().all(|part| has(b, part)) && b.iter().all(|part| has(a, part))
}

type Part = ((String, String), Option<char>);

/// Types and values with the separator behind each, escapes resolved.
fn split(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let (mut kind, mut bytes, mut trailing): (Option<String>, Vec<u8>, usize) = (None, Vec::new(), 0);
    let take = |bytes: &mut Vec<u8>, trailing: &mut usize| {
        bytes.truncate(bytes.len() - std::mem::take(trailing));
        String::from_utf8(std::mem::take(bytes)).ok()
    };
    let mut input = text.bytes().peekable();
    while let Some(byte) = input.next() {
        match byte {
            b'\\' => {
                trailing = 0;
                let next = input.next()?;
                if b" \"#+,;<=>\\".contains(&next) {
                    bytes.push(next);
                } else {
                    let digits = [next, input.next()?];
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                }
            }
            b'=' => {
                kind = Some(take(&mut bytes, &mut trailing)?);
                if input.peek() == Some(&b'#') {
                    return None; // BER in hexadecimal
                }
            }
            b',' | b'+' => {
                let kind = kind.take().filter(|kind| !kind.is_empty())?;
                parts.push(((kind, take(&mut bytes, &mut trailing)?), Some(char::from(byte))));
            }
            b' ' if bytes.is_empty() => {}
            _ => {
                trailing = if byte == b' ' { trailing + 1 } else { 0 };
                bytes.push(byte);
            }
        }
    }
    if !bytes.is_empty() {
        let kind = kind.take().filter(|kind| !kind.is_empty())?;
        parts.push(((kind, take(&mut bytes, &mut trailing)?), None));
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(subject: &[&[(&str, &str)]]) -> CertificateNames {
        let set = |set: &&[(&str, &str)]| {
            set.iter().map(|(kind, value)| ((*kind).into(), (*value).into())).collect()
        };
        CertificateNames { subject: subject.iter().map(set).collect(), ..Default::default() }
    }

    #[test]
    fn subjects_are_spelled_as_go_spells_them() {
        let names = names(&[
            &[(DOMAIN_COMPONENT, "com")],
            &[(DOMAIN_COMPONENT, "example")],
            &[("2.5.4.6", "US")],
            &[("2.5.4.11", "Dev")],
            &[("2.5.4.11", "Ops, all")],
            &[("2.5.4.3", "a b")],
        ]);
        assert_eq!(
            names.subjects(),
            [r"CN=a b,OU=Dev+OU=Ops\, all,C=US,DC=com,DC=example", r"CN=a b,OU=Dev+OU=Ops\, all,C=US"]
        );
    }

    #[test]
    fn distinguished_names_compare_by_parts() {
        let certificate = names(&[
            &[("2.5.4.10", "Acme")],
            &[("2.5.4.11", "x"), ("2.5.4.11", "y")],
            &[("2.5.4.3", "joe,")],
        ]);
        let certificate = certificate.distinguished_name().unwrap();
        let parse = |text: &str| DistinguishedName::parse(text).unwrap();
        assert!(parse(r"CN=joe\,, OU=y + OU=x , o=Acme").is_equal(&certificate));
        assert!(parse(r"cn=joe\2c,OU=x+OU=y,O=Acme").is_equal(&certificate));
        let reordered = parse(r"O=Acme,CN=joe\,,OU=x+OU=y");
        assert!(!reordered.is_equal(&certificate) && reordered.is_permutation(&certificate));
        for other in [r"CN=joe,OU=x+OU=y,O=Acme", r"CN=joe\,,OU=x+OU=y", r"CN=joe\,,OU=x,OU=y,O=Acme"] {
            assert!(!parse(other).is_permutation(&certificate), "{other}");
        }
        for no_name in ["joe", "", "=x", r"CN=\", r"CN=\zz", "CN=#04"] {
            assert_eq!(DistinguishedName::parse(no_name), None, "{no_name}");
        }
    }
}
