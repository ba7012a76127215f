//! Passwords and signatures.
//!
//! Owns comparing what a client sent with what is configured. Never prints either.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use nkeys::{KeyPair, KeyPairType};
use std::fmt;
use subtle::ConstantTimeEq;

/// A password or token as configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Plain(Box<str>),
    Bcrypt(Box<str>),
}

impl Secret {
    /// Text in the form `$2a$10$…` (also `2b`, `2x`, `2y`) is a bcrypt hash, anything else the secret itself.
    pub fn new(text: &str) -> Secret {
        let hashed = match text.as_bytes() {
            [b'$', b'2', b'a' | b'b' | b'x' | b'y', b'$', tens, ones, b'$', ..] => {
                tens.is_ascii_digit() && ones.is_ascii_digit()
            }
            _ => false,
        };
        Secret(if hashed { Kind::Bcrypt(text.into()) } else { Kind::Plain(text.into()) })
    }

    /// Whether comparing takes milliseconds and more, by design of bcrypt.
    pub fn is_slow(&self) -> bool {
        matches!(self.0, Kind::Bcrypt(_))
    }

    /// Whether the configured text is empty.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Kind::Plain(text) if text.is_empty())
    }

    /// Whether `given` is the secret. Plain texts of equal length are compared in constant time.
    pub fn matches(&self, given: &str) -> bool {
        match &self.0 {
            Kind::Plain(text) => text.as_bytes().ct_eq(given.as_bytes()).into(),
            Kind::Bcrypt(hash) => bcrypt::verify(given, hash).unwrap_or(false),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[REDACTED]")
    }
}

/// What a public nkey is the key of; `None` for text that is none.
pub(crate) fn key_kind(key: &str) -> Option<KeyPairType> {
    KeyPair::from_public_key(key).ok().map(|pair| pair.key_pair_type())
}

pub(crate) fn is_account_key(key: &str) -> bool {
    key_kind(key) == Some(KeyPairType::Account)
}

pub(crate) fn is_operator_key(key: &str) -> bool {
    key_kind(key) == Some(KeyPairType::Operator)
}

/// Whether `signature` (base64, URL alphabet without padding or the plain one) is that of `key` over `signed`.
pub(crate) fn is_signed(key: &str, signed: &[u8], signature: &str) -> bool {
    let signature = signature.as_bytes();
    let decoded = BASE64URL_NOPAD.decode(signature).or_else(|_| BASE64.decode(signature));
    match (KeyPair::from_public_key(key), decoded) {
        (Ok(pair), Ok(signature)) => pair.verify(signed, &signature).is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_hashed_secrets() {
        let plain = Secret::new("s3cr3t");
        assert!(plain.matches("s3cr3t") && !plain.matches("s3cr3") && !plain.matches("") && !plain.is_slow());
        // bcrypt of "foo", cost 4.
        let hash = bcrypt::hash_with_salt("foo", 4, [7; 16]).unwrap().to_string();
        let hashed = Secret::new(&hash);
        assert!(
            hashed.is_slow() && hashed.matches("foo") && !hashed.matches("bar") && !hashed.matches(&hash)
        );
        assert!(!Secret::new("$2a$xx$").is_slow());
        assert_eq!(format!("{plain:?}{hashed:?}"), "[REDACTED][REDACTED]");
        // A broken hash lets nobody in, not even with its own text.
        let broken = Secret::new("$2a$04$short");
        assert!(!broken.matches("$2a$04$short") && !broken.matches(""));
    }

    #[test]
    fn signatures_in_both_alphabets() {
        let pair = KeyPair::new_user();
        let signature = pair.sign(b"nonce").unwrap();
        let key = pair.public_key();
        assert!(is_signed(&key, b"nonce", &BASE64URL_NOPAD.encode(&signature)));
        assert!(is_signed(&key, b"nonce", &BASE64.encode(&signature)));
        assert!(!is_signed(&key, b"other nonce", &BASE64.encode(&signature)));
        assert!(!is_signed(&KeyPair::new_user().public_key(), b"nonce", &BASE64.encode(&signature)));
        for odd in ["", "AAAA", "!!!", "Zm9v"] {
            assert!(!is_signed(&key, b"nonce", odd));
        }
        assert!(!is_signed("no key", b"nonce", &BASE64.encode(&signature)));
    }
}
