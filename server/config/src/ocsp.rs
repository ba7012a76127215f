//! OCSP: `ocsp`, `ocsp_cache`, and `ocsp_peer` in blocks of TLS. Owns their keys and defaults.

use crate::grammar::Value;
use crate::reader::{Field, Reader, assign};
use crate::settings::{Ocsp, OcspCache, OcspCacheKind, OcspMode};
use crate::tree::Tree;
use std::time::Duration;

/// Least of `save_interval`.
const SAVE_INTERVAL_MIN: Duration = Duration::from_secs(1);

const STAPLING_KEYS: &[&str] = &["mode", "url", "urls"];
const CACHE_KEYS: &[&str] = &["type", "local_store", "preserve_revoked", "save_interval"];
const PEER_KEYS: &[&str] = &[
    "verify",
    "ca_timeout",
    "allowed_clockskew",
    "warn_only",
    "unknown_is_good",
    "allow_when_ca_unreachable",
    "cache_ttl_when_next_update_unset",
];

/// `ocsp_peer`: clients' certificates are checked by asking their authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcspPeer {
    /// On.
    pub verify: bool,
    /// Time for a responder to answer.
    pub ca_timeout: Duration,
    /// How far the clocks of this machine and a responder may be apart.
    pub allowed_clockskew: Duration,
    /// Nobody is turned away; what would be is logged.
    pub warn_only: bool,
    /// A certificate that its responder does not know will do.
    pub unknown_is_good: bool,
    /// A certificate whose responder cannot be reached will do, unless it is known to have been revoked.
    pub allow_when_ca_unreachable: bool,
    /// How long a response counts whose responder does not say.
    pub cache_ttl_when_next_update_unset: Duration,
}

impl Default for OcspPeer {
    fn default() -> Self {
        OcspPeer {
            verify: false,
            ca_timeout: Duration::from_secs(2),
            allowed_clockskew: Duration::from_secs(30),
            warn_only: false,
            unknown_is_good: false,
            allow_when_ca_unreachable: false,
            cache_ttl_when_next_update_unset: Duration::from_secs(60 * 60),
        }
    }
}

pub(crate) fn stapling(block: &Field<'_>, reader: &mut Reader) -> Option<Ocsp> {
    let map = match &block.node.value {
        Value::Boolean(true) => return Some(Ocsp { mode: OcspMode::Auto, urls: Vec::new() }),
        Value::Boolean(false) => return Some(Ocsp { mode: OcspMode::Never, urls: Vec::new() }),
        Value::Map(map) => map,
        other => {
            block.problem(
                reader,
                format!("error parsing ocsp config: expected a boolean or a map, found {}", other.kind()),
            );
            return None;
        }
    };
    let mut ocsp = Ocsp { mode: OcspMode::Auto, urls: Vec::new() };
    for field in reader.fields(map) {
        match field.key.as_str() {
            "mode" => {
                let mode = field.string(reader)?;
                let modes = [OcspMode::Auto, OcspMode::Always, OcspMode::Never, OcspMode::Must];
                match modes.into_iter().find(|m| m.name().eq_ignore_ascii_case(&mode)) {
                    Some(mode) => ocsp.mode = mode,
                    None => field.problem(
                        reader,
                        format!(
                            "error parsing ocsp config: unsupported ocsp mode {mode:?}; use auto, always, never or must"
                        ),
                    ),
                }
            }
            "url" | "urls" => assign(&mut ocsp.urls, field.strings(reader)),
            _ => reader.unknown(&field, STAPLING_KEYS),
        }
    }
    Some(ocsp)
}

pub(crate) fn cache(block: &Field<'_>, reader: &mut Reader) -> Option<OcspCache> {
    let map = match &block.node.value {
        Value::Boolean(true) => return Some(OcspCache::default()),
        Value::Boolean(false) => {
            return Some(OcspCache { kind: OcspCacheKind::None, ..OcspCache::default() });
        }
        _ => block.map(reader)?,
    };
    let mut cache = OcspCache::default();
    for field in reader.fields(map) {
        match field.key.as_str() {
            "type" => match field.string(reader)?.to_ascii_lowercase().as_str() {
                "none" => cache.kind = OcspCacheKind::None,
                "local" => cache.kind = OcspCacheKind::Local,
                other => {
                    field.problem(reader, format!("unknown type {other:?} of ocsp_cache; use local or none"))
                }
            },
            "local_store" => assign(&mut cache.local_store, field.string(reader).filter(|s| !s.is_empty())),
            "preserve_revoked" => assign(&mut cache.preserve_revoked, field.boolean(reader)),
            "save_interval" => {
                let interval = field.timeout(reader).map(|interval| interval.max(SAVE_INTERVAL_MIN));
                assign(&mut cache.save_interval, interval);
            }
            _ => reader.unknown(&field, CACHE_KEYS),
        }
    }
    Some(cache)
}

pub(crate) fn peer(block: &Field<'_>, reader: &mut Reader) -> Option<OcspPeer> {
    let mut peer = OcspPeer::default();
    let map = match &block.node.value {
        Value::Boolean(verify) => return Some(OcspPeer { verify: *verify, ..peer }),
        _ => block.map(reader)?,
    };
    for field in reader.fields(map) {
        match field.key.as_str() {
            "verify" => assign(&mut peer.verify, field.boolean(reader)),
            "ca_timeout" => assign(&mut peer.ca_timeout, field.timeout(reader).filter(|t| !t.is_zero())),
            "allowed_clockskew" => assign(&mut peer.allowed_clockskew, field.timeout(reader)),
            "cache_ttl_when_next_update_unset" => {
                assign(&mut peer.cache_ttl_when_next_update_unset, field.timeout(reader));
            }
            "warn_only" => assign(&mut peer.warn_only, field.boolean(reader)),
            "unknown_is_good" => assign(&mut peer.unknown_is_good, field.boolean(reader)),
            "allow_when_ca_unreachable" => {
                assign(&mut peer.allow_when_ca_unreachable, field.boolean(reader));
            }
            _ => reader.unknown(&field, PEER_KEYS),
        }
    }
    Some(peer)
}

impl OcspPeer {
    pub(crate) fn tree(&self) -> Tree {
        let default = OcspPeer::default();
        let mut tree = Tree::default();
        tree.boolean("verify", self.verify, !self.verify);
        for (key, value, default) in [
            ("ca_timeout", self.ca_timeout, default.ca_timeout),
            ("allowed_clockskew", self.allowed_clockskew, default.allowed_clockskew),
            (
                "cache_ttl_when_next_update_unset",
                self.cache_ttl_when_next_update_unset,
                default.cache_ttl_when_next_update_unset,
            ),
        ] {
            tree.duration(key, value, default);
        }
        tree.boolean("warn_only", self.warn_only, false);
        tree.boolean("unknown_is_good", self.unknown_is_good, false);
        tree.boolean("allow_when_ca_unreachable", self.allow_when_ca_unreachable, false);
        tree
    }
}

impl OcspCache {
    pub(crate) fn tree(&self) -> Tree {
        let default = OcspCache::default();
        let mut tree = Tree::default();
        tree.string("type", if self.kind == OcspCacheKind::Local { "local" } else { "none" });
        if self.local_store != default.local_store {
            tree.string("local_store", &self.local_store);
        }
        tree.boolean("preserve_revoked", self.preserve_revoked, false);
        tree.duration("save_interval", self.save_interval, default.save_interval);
        tree
    }
}
