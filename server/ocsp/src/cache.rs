//! Responses that were fetched about peers, by the certificate's fingerprint.
//!
//! Owns the form of nats-server's `cache.json`, so that either server reads the other's file. Never touches the file.

use crate::staple::date;
use crate::{Error, Response, Status};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wire::s2::{Compressor, Decompressor, Level};

/// A response is a few hundred bytes to a few KB; more is not read back.
const RESPONSE_BYTES_MAX: usize = 64 << 10;
/// A zero time, as Go writes it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Numbers of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Responses in it.
    pub responses: u64,
    /// Questions that it could answer since the start.
    pub hits: u64,
    /// Questions that it could not.
    pub misses: u64,
    /// Responses that say good.
    pub goods: u64,
    /// Responses that say revoked.
    pub revokes: u64,
    /// Responses that say unknown.
    pub unknowns: u64,
}

/// The cache.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    items: BTreeMap<String, Item>,
    hits: u64,
    misses: u64,
    /// Revoked certificates are remembered when the response counts no more.
    preserves_revoked: bool,
    changed: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Item {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    subject: String,
    cached_at: String,
    resp_status: String,
    #[serde(default)]
    resp_expires: String,
    /// Base64 of an S2 stream.
    resp: String,
}

impl Item {
    fn status(&self) -> Status {
        Status::from_name(&self.resp_status)
    }

    fn response(&self) -> Option<Vec<u8>> {
        let packed = BASE64.decode(self.resp.as_bytes()).ok()?;
        let mut stream = Decompressor::default();
        stream.feed(&packed);
        let mut plain = vec![0; RESPONSE_BYTES_MAX];
        let length = stream.read(&mut plain).ok().filter(|length| *length < RESPONSE_BYTES_MAX)?;
        plain.truncate(length);
        Some(plain)
    }
}

impl Cache {
    /// An empty one.
    pub fn new(preserves_revoked: bool) -> Cache {
        Cache { preserves_revoked, ..Cache::default() }
    }

    /// From a file's text.
    ///
    /// # Errors
    /// [`Error::Cache`]
    pub fn load(text: &[u8], preserves_revoked: bool) -> Result<Cache, Error> {
        let items = serde_json::from_slice(text).map_err(|error| Error::Cache(error.to_string()))?;
        Ok(Cache { items, preserves_revoked, ..Cache::default() })
    }

    /// The text for the file, if anything changed since the last time.
    pub fn save(&mut self) -> Option<Vec<u8>> {
        let changed = std::mem::take(&mut self.changed);
        changed.then(|| serde_json::to_vec_pretty(&self.items).unwrap_or_default())
    }

    /// What was written is not in the file: it is written again next time.
    pub fn save_failed(&mut self) {
        self.changed = true;
    }

    /// The response about a certificate.
    pub fn get(&mut self, fingerprint: &str) -> Option<Vec<u8>> {
        let found = self.items.get(fingerprint).and_then(Item::response);
        match found {
            Some(_) => self.hits += 1,
            None => self.misses += 1,
        }
        found
    }

    /// Remembers a response that counts.
    pub fn put(
        &mut self,
        fingerprint: String,
        subject: &str,
        der: &[u8],
        response: &Response,
        now_millis: i64,
    ) {
        let mut packed = Vec::new();
        Compressor::new(Level::Fast).write(der, &mut packed);
        let seconds = now_millis - now_millis.rem_euclid(1000);
        let item = Item {
            subject: subject.into(),
            cached_at: date(seconds),
            resp_status: response.status.name().into(),
            resp_expires: response.next_update_millis.map_or_else(|| NEVER.into(), date),
            resp: BASE64.encode(&packed),
        };
        self.items.insert(fingerprint, item);
        self.changed = true;
    }

    /// Forgets a response that turned out to be useless; the question counts as not answered.
    pub fn forget(&mut self, fingerprint: &str) {
        let Some(item) = self.items.get(fingerprint) else { return };
        self.hits = self.hits.saturating_sub(1);
        self.misses += 1;
        if item.status() == Status::Revoked && self.preserves_revoked {
            return;
        }
        self.items.remove(fingerprint);
        self.changed = true;
    }

    /// Its numbers.
    pub fn statistics(&self) -> Statistics {
        let count = |status| self.items.values().filter(|item| item.status() == status).count() as u64;
        Statistics {
            responses: self.items.len() as u64,
            hits: self.hits,
            misses: self.misses,
            goods: count(Status::Good),
            revokes: count(Status::Revoked),
            unknowns: count(Status::Unknown),
        }
    }
}
