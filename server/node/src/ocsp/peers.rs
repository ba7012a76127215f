//! Asking about the certificates of peers, and the cache of what was answered.
//!
//! Owns the file of the cache: when it is read and written. A check may wait for a responder, so it is never made in a
//! worker's thread.

use super::{now_millis, responder};
use crate::shared::Shared;
use config::Settings;
use config::ocsp::OcspPeer;
use config::settings::{OcspCache, OcspCacheKind};
use ocsp::{Cache, Cached, Certificate, Link, PeerOptions, Statistics, Verdict};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::{OnceLock, Weak};
use std::time::{Duration, Instant};

const FILE: &str = "cache.json";
/// How often the saver looks whether it is time.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Checks of peers' certificates.
#[derive(Default)]
pub struct Peers {
    cache: Mutex<Option<Kept>>,
    /// Who tells the system account.
    shared: OnceLock<Weak<Shared>>,
}

struct Kept {
    cache: Cache,
    settings: OcspCache,
    saved: Instant,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Peers")
    }
}

impl Peers {
    /// From now on events are told.
    pub fn tell_through(&self, shared: Weak<Shared>) {
        let _ = self.shared.set(shared);
    }

    /// Opens the cache that the settings ask for; what was there before is saved.
    pub fn configure(&self, settings: &Settings) {
        self.save(true);
        let checks = settings.tls.as_ref().and_then(|tls| tls.ocsp_peer.as_ref());
        let wanted = settings.ocsp_cache.clone().unwrap_or_default();
        let mut cache = self.cache.lock();
        if !checks.is_some_and(|peer| peer.verify) || wanted.kind == OcspCacheKind::None {
            *cache = None;
            return;
        }
        let opened = open(&wanted);
        tracing::info!("OCSP peer cache online, type [local]");
        *cache = Some(Kept { cache: opened, settings: wanted, saved: Instant::now() });
    }

    /// Numbers of the cache, if there is one.
    pub fn statistics(&self) -> Option<Statistics> {
        self.cache.lock().as_ref().map(|kept| kept.cache.statistics())
    }

    /// Writes the cache to its file if it changed and the time has come, or `now`.
    pub fn save(&self, now: bool) {
        let mut guard = self.cache.lock();
        let Some(kept) = guard.as_mut() else { return };
        if !now && kept.saved.elapsed() < kept.settings.save_interval {
            return;
        }
        kept.saved = Instant::now();
        let Some(text) = kept.cache.save() else { return };
        if let Err(error) = write(&kept.settings, &text) {
            kept.cache.save_failed();
            tracing::error!("Unable to save OCSP peer cache: {error}");
        }
    }

    /// Whether every certificate of a peer's chain that can be asked about is good.
    pub fn is_valid(&self, chain: &[Certificate], options: &OcspPeer) -> bool {
        Link::of_chain(chain).iter().all(|link| {
            let reason = self.judge(link, link.responders(), options).invalid;
            if let (Some(reason), Some(peer)) = (&reason, chain.first()) {
                self.tell(|system| system.tell_ocsp_link_invalid(&link.certificate, peer, reason));
            }
            reason.is_none()
        })
    }

    /// The verdict about one certificate, by the cache or else its responders.
    pub fn judge<'a>(
        &self,
        link: &Link,
        responders: impl Iterator<Item = &'a str>,
        options: &OcspPeer,
    ) -> Verdict {
        let rules = rules(options);
        let fingerprint = link.certificate.fingerprint();
        let mut was_revoked = false;
        let cached = self.with_cache(|cache| cache.get(&fingerprint)).flatten();
        if let Some(cached) = cached {
            match ocsp::judge_cached(&cached, link, &rules, now_millis()) {
                Cached::Current(response) => return told(ocsp::judge_response(&response, link, &rules)),
                Cached::Useless { revoked } => {
                    was_revoked = revoked;
                    self.with_cache(|cache| cache.forget(&fingerprint));
                }
            }
        }
        let request = ocsp::request(&link.certificate, &link.issuer);
        let answer = responder::get(responders, &request, options.ca_timeout);
        let bytes = answer.as_deref().map_err(Clone::clone);
        let now = now_millis();
        let (verdict, response) = ocsp::judge_answer(bytes, was_revoked, link, &rules, now);
        if let (Some(response), Ok(der)) = (response, &answer) {
            let subject = &link.certificate.subject_name;
            self.with_cache(|cache| cache.put(fingerprint, subject, der, &response, now));
        }
        told(verdict)
    }

    /// Tells that a peer was turned away.
    pub fn tell_rejected(&self, kind: &'static str, peer: &Certificate, reason: &str) {
        self.tell(|system| system.tell_ocsp_rejected(kind, peer, reason));
    }

    fn tell(&self, tell: impl FnOnce(&std::sync::Arc<crate::system::System>)) {
        let shared = self.shared.get().and_then(Weak::upgrade);
        if let Some(system) = shared.and_then(|shared| shared.system()) {
            tell(&system);
        }
    }

    fn with_cache<R>(&self, act: impl FnOnce(&mut Cache) -> R) -> Option<R> {
        self.cache.lock().as_mut().map(|kept| act(&mut kept.cache))
    }
}

fn told(verdict: Verdict) -> Verdict {
    for warning in &verdict.warnings {
        tracing::warn!("{warning}");
    }
    verdict
}

pub(super) fn rules(options: &OcspPeer) -> PeerOptions {
    PeerOptions {
        clock_skew: options.allowed_clockskew,
        warn_only: options.warn_only,
        unknown_is_good: options.unknown_is_good,
        allow_when_unreachable: options.allow_when_ca_unreachable,
        time_to_live: options.cache_ttl_when_next_update_unset,
    }
}

/// The cache as its file has it; empty if there is none, or none that can be read.
fn open(settings: &OcspCache) -> Cache {
    let file = PathBuf::from(&settings.local_store).join(FILE);
    let loaded = match std::fs::read(&file) {
        Ok(text) => Cache::load(&text, settings.preserve_revoked).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Cache::new(settings.preserve_revoked);
        }
        Err(error) => Err(error.to_string()),
    };
    loaded.unwrap_or_else(|error| {
        tracing::warn!("Unable to load OCSP peer cache {}: {error}", file.display());
        Cache::new(settings.preserve_revoked)
    })
}

/// Whole or not at all.
fn write(settings: &OcspCache, text: &[u8]) -> std::io::Result<()> {
    let folder = PathBuf::from(&settings.local_store);
    std::fs::create_dir_all(&folder)?;
    let new = folder.join(format!("{FILE}.new"));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, folder.join(FILE))
}

/// Saves the cache for as long as the server runs.
pub async fn save(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(server) = shared.upgrade() else { return };
        server.peers.save(false);
    }
}
