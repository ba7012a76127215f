//! Account tokens on disk: one file for each account, `KEY.jwt`, as nats-server's directories have them.
//!
//! Owns the folder: which token is kept is decided by `accounts::resolver::Directory`, and written here so that a
//! reader, or a crash, sees the old file or the new one.

use super::Error;
use crate::worker_thread::{now_nanos, wall_nanos};
use accounts::jwt;
use accounts::resolver::{Answer, Change, Directory, DirectorySettings, Request};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often tokens that are over are looked for, at most and at least.
const SWEEP_PERIOD: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

/// A folder of tokens.
pub struct Files {
    /// What is in it.
    directory: Directory,
    path: PathBuf,
    hard_delete: bool,
    /// How long a token is kept that nobody asked for; `None` for ever. Only a cache forgets.
    cache: Option<Cache>,
}

/// What a folder forgets.
struct Cache {
    ttl_nanos: Option<u64>,
    tokens_max: usize,
    /// When each token was last fetched or used.
    used_nanos: HashMap<String, u64>,
}

/// How a folder is kept.
pub struct FilesSettings {
    /// Who may change it.
    pub directory: DirectorySettings,
    /// The folder; made if it is not there.
    pub path: PathBuf,
    /// Deleted tokens are not kept under another name.
    pub hard_delete: bool,
    /// The folder holds those used lately: bound and time to live in nanoseconds.
    pub cache: Option<(usize, Option<u64>)>,
}

impl Files {
    /// Reads the folder. Files that hold no valid token stay out, and where they are.
    ///
    /// # Errors
    /// The folder cannot be made or read, or nobody could change it.
    pub fn open(settings: FilesSettings) -> Result<Files, Error> {
        let fail = |error| Error::Directory { path: settings.path.clone(), error };
        std::fs::create_dir_all(&settings.path).map_err(fail)?;
        let mut directory =
            Directory::new(&settings.directory).map_err(|e| Error::Configuration(e.to_string()))?;
        let mut used_nanos = HashMap::new();
        for entry in std::fs::read_dir(&settings.path).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let is_token = path.extension().is_some_and(|extension| extension == "jwt");
            let Some(key) = path.file_stem().and_then(|name| name.to_str()).filter(|_| is_token) else {
                continue;
            };
            let loaded = std::fs::read_to_string(&path).map_err(|error| error.to_string());
            match loaded.and_then(|text| directory.load(key, text.trim())) {
                Ok(()) => drop(used_nanos.insert(key.to_owned(), now_nanos())),
                Err(error) => tracing::error!("account token {} is not used: {error}", path.display()),
            }
        }
        let cache = settings.cache.map(|(tokens_max, ttl_nanos)| Cache { ttl_nanos, tokens_max, used_nanos });
        Ok(Files { directory, path: settings.path, hard_delete: settings.hard_delete, cache })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds only what was used lately.
    pub fn is_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// Hash over all tokens.
    pub fn hash(&self) -> [u8; 32] {
        self.directory.hash()
    }

    /// A token.
    pub fn token(&mut self, key: &str) -> Option<Arc<str>> {
        let now = now_nanos();
        if let Some(cache) = &mut self.cache {
            let used = cache.used_nanos.get(key).copied().unwrap_or(0);
            if cache.ttl_nanos.is_some_and(|ttl| now.saturating_sub(used) > ttl) {
                self.forget(key);
                return None;
            }
        }
        let token = self.directory.token(key).cloned();
        if let (Some(cache), true) = (&mut self.cache, token.is_some()) {
            cache.used_nanos.insert(key.to_owned(), now);
        }
        token
    }

    /// Answers a request and keeps what it changes.
    pub fn handle_request(&mut self, request: &Request, payload: &[u8]) -> Answer {
        if let Request::Update(_) = request
            && let Some(claims) =
                std::str::from_utf8(payload).ok().and_then(|text| jwt::account(text.trim()).ok())
        {
            self.make_room(&claims.subject);
        }
        let answer = self.directory.handle_request(request, payload, wall_seconds());
        self.keep(&answer.changes);
        answer
    }

    /// Keeps a token that was fetched, or that the configuration has.
    pub fn store(&mut self, key: &str, token: &str) {
        self.make_room(key);
        self.handle_pack(format!("{key}|{token}").as_bytes());
    }

    /// Takes in tokens of another server.
    pub fn handle_pack(&mut self, message: &[u8]) -> Vec<Change> {
        let (changes, result) = self.directory.handle_pack(message);
        self.keep(&changes);
        if let Err(error) = result {
            tracing::error!("DirResolver - Merging resulted in error: {error}");
        }
        changes
    }

    fn forget(&mut self, key: &str) {
        if self.directory.evict(key).is_none() {
            return;
        }
        if let Some(cache) = &mut self.cache {
            cache.used_nanos.remove(key);
        }
        self.complain(std::fs::remove_file(self.file(key)));
    }

    /// How often [`sweep`](Self::sweep) is due (nats-server: twice in a time to live, at least every minute).
    pub fn sweep_period(&self) -> Duration {
        let ttl_nanos = self.cache.as_ref().and_then(|cache| cache.ttl_nanos);
        let half = ttl_nanos.map_or(*SWEEP_PERIOD.end(), |nanos| Duration::from_nanos(nanos / 2));
        half.clamp(*SWEEP_PERIOD.start(), *SWEEP_PERIOD.end())
    }

    /// Removes the files of tokens that are over: in a cache with a time to live those that nobody used for so long,
    /// otherwise those that have expired. Accounts in use stay in use.
    pub fn sweep(&mut self) {
        let now = now_nanos();
        let over: Vec<String> = match self.cache.as_ref().and_then(|cache| Some((cache, cache.ttl_nanos?))) {
            Some((cache, ttl)) => {
                let unused = cache.used_nanos.iter().filter(|(_, used)| now.saturating_sub(**used) > ttl);
                unused.map(|(key, _)| key.clone()).collect()
            }
            None => self.directory.expired(wall_seconds()),
        };
        for key in over {
            self.forget(&key);
        }
    }

    /// Before a token of this account comes: the one unused for longest goes if there is no place.
    fn make_room(&mut self, key: &str) {
        let Some(cache) = &self.cache else { return };
        if self.directory.token(key).is_some() || self.directory.len() < cache.tokens_max.max(1) {
            return;
        }
        let oldest = cache.used_nanos.iter().min_by_key(|(_, used)| **used).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.forget(&key);
        }
    }

    fn keep(&mut self, changes: &[Change]) {
        for change in changes {
            let result = match change {
                Change::Stored { key, token } => {
                    if let Some(cache) = &mut self.cache {
                        cache.used_nanos.insert(key.clone(), now_nanos());
                    }
                    self.write(key, token)
                }
                Change::Deleted { key } => {
                    if let Some(cache) = &mut self.cache {
                        cache.used_nanos.remove(key);
                    }
                    self.delete(key)
                }
            };
            self.complain(result);
        }
    }

    fn complain(&self, result: std::io::Result<()>) {
        if let Err(error) = result {
            tracing::error!(
                "the folder of account tokens {} cannot be changed: {error}",
                self.path.display()
            );
        }
    }

    /// The name of a key, checked by the directory: it cannot lead out of the folder.
    fn file(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.jwt"))
    }

    fn write(&self, key: &str, token: &str) -> std::io::Result<()> {
        let temporary = self.path.join(format!(".{key}.new"));
        std::fs::write(&temporary, token)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, self.file(key))
    }

    fn delete(&self, key: &str) -> std::io::Result<()> {
        let file = self.file(key);
        match self.hard_delete || self.cache.is_some() {
            true => std::fs::remove_file(file),
            false => std::fs::rename(&file, self.path.join(format!("{key}.jwt.deleted"))),
        }
    }
}

fn wall_seconds() -> i64 {
    (wall_nanos() / 1_000_000_000) as i64
}
