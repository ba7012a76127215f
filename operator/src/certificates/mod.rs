//! The operator's own authority for a cluster: what is kept of it, and when what is due.
//!
//! Owns the order of a rotation, so that at no moment anybody meets a certificate of an authority that it
//! does not know: the next authority is first trusted everywhere ([`Step::Introduce`]), then signs
//! ([`Step::Promote`]), and the old one is forgotten last ([`Step::Retire`]). Each step waits until every
//! server shows the certificate of the step before, and for the overlap that clients were promised.
//! Every step comes with a new server certificate, so that a server that shows it is known to have loaded
//! the authorities beside it as well. Pure; keys are made in [`issue`]. Knows no Secret and no file:
//! [`Stored`] is kept by either.

pub mod issue;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use crate::rollout::Observed;
use crate::validate::{CertificateSource, Cluster, SelfSigned};

/// Keys of data.
pub mod key {
    /// Certificate of the authority that signs; in the servers' Secret: all that are trusted.
    pub const CA_CRT: &str = "ca.crt";
    /// Its key.
    pub const CA_KEY: &str = "ca.key";
    /// Certificate of the authority that will sign next.
    pub const NEXT_CRT: &str = "next.crt";
    /// Its key.
    pub const NEXT_KEY: &str = "next.key";
    /// Certificate of the authority that signed before.
    pub const PREVIOUS_CRT: &str = "previous.crt";
    /// The servers' certificate.
    pub const TLS_CRT: &str = "tls.crt";
    /// Its key.
    pub const TLS_KEY: &str = "tls.key";
    /// All of them.
    pub const ALL: [&str; 7] = [CA_CRT, CA_KEY, NEXT_CRT, NEXT_KEY, PREVIOUS_CRT, TLS_CRT, TLS_KEY];
}

/// Keys of notes; annotations of the Secrets, too.
pub mod note {
    /// When the authority last took a step, RFC 3339.
    pub const SINCE: &str = "starling.dev/since";
    /// Value of [`super::ROTATE_AUTHORITY`] that was carried out.
    pub const ROTATED: &str = "starling.dev/rotated";
    /// Hash of all that the servers' certificate was made for.
    pub const INPUTS: &str = "starling.dev/inputs";
    /// Hash of the data, to see that nobody else changed it.
    pub const CONTENT: &str = "starling.dev/content";
}

/// Annotation of a NatsCluster: changing it makes a new server certificate.
pub const ROTATE_CERTIFICATES: &str = "starling.dev/rotate-certificates";
/// Annotation of a NatsCluster: changing it makes a new authority.
pub const ROTATE_AUTHORITY: &str = "starling.dev/rotate-ca";

/// What a Secret holds, or a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Files.
    pub data: BTreeMap<String, String>,
    /// What we remember about them.
    pub notes: BTreeMap<String, String>,
}

impl Stored {
    fn file(&self, name: &str) -> Option<&str> {
        self.data.get(name).map(String::as_str)
    }

    fn note(&self, name: &str) -> Option<&str> {
        self.notes.get(name).map(String::as_str)
    }
}

/// All that the operator keeps of a cluster's certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The authority, never given to servers.
    pub authority: Stored,
    /// What servers mount.
    pub server: Stored,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// How long things last.
    pub lifetimes: SelfSigned,
    /// Names and addresses in the server certificate; the first is its common name.
    pub names: Vec<String>,
    /// Value of [`ROTATE_CERTIFICATES`].
    pub rotate_certificates: Option<String>,
    /// Value of [`ROTATE_AUTHORITY`].
    pub rotate_authority: Option<String>,
}

/// What is due for the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, or it has to wait.
    Keep,
    /// There is none: make the first.
    Found,
    /// Make the next one, and have it trusted.
    Introduce,
    /// Have the next one sign, and trust the old one still.
    Promote,
    /// Forget the old one.
    Retire,
}

/// A DNS name that a certificate is for; of a pattern, one that it covers.
pub fn first_name(certificate: &str) -> Option<String> {
    let pem = Pem::iter_from_buffer(certificate.as_bytes()).next()?.ok()?;
    let certificate = pem.parse_x509().ok()?;
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.replace('*', "any")),
        _ => None,
    })
}

/// How far a rotation is, as status shows it; `None`: none is under way.
pub fn rotation(state: &State) -> Option<&'static str> {
    if state.authority.file(key::NEXT_CRT).is_some() {
        Some("Introducing")
    } else if state.authority.file(key::PREVIOUS_CRT).is_some() {
        Some("Retiring")
    } else {
        None
    }
}

/// What is due for the authority.
pub fn step(asked: &Asked, state: &State, observed: &Observed, now: Timestamp) -> Step {
    let authority = &state.authority;
    let Some(end) = authority.file(key::CA_CRT).and_then(not_after) else { return Step::Found };
    if authority.file(key::CA_KEY).is_none_or(str::is_empty) {
        return Step::Found;
    }
    let since = authority.note(note::SINCE).and_then(|text| text.parse::<Timestamp>().ok());
    let rested =
        since.is_none_or(|since| now.duration_since(since).unsigned_abs() >= asked.lifetimes.overlap);
    let done = is_current(asked, state, now) && all_show(state, observed) && rested;
    let next = authority.file(key::NEXT_CRT).and_then(not_after).and(authority.file(key::NEXT_KEY));
    match (next, authority.file(key::PREVIOUS_CRT)) {
        (Some(_), _) if done => Step::Promote,
        (None, Some(_)) if done => Step::Retire,
        (Some(_), _) | (_, Some(_)) => Step::Keep,
        (None, None) => {
            let SelfSigned { validity, authority_validity, overlap, .. } = asked.lifetimes;
            // No server certificate may outlive its authority, nor may clients miss the change.
            let lead = (validity + overlap * 2).min(authority_validity / 2);
            let due = end.checked_sub(lead).map_or(true, |due| now >= due);
            let wished = asked.rotate_authority.as_deref();
            if due || (wished.is_some() && wished != authority.note(note::ROTATED)) {
                Step::Introduce
            } else {
                Step::Keep
            }
        }
    }
}

/// When to look again: soon while servers load something, else when the next thing is due.
pub fn look_again(asked: &Asked, state: &State, observed: &Observed, now: Timestamp) -> Duration {
    if !all_show(state, observed) {
        return loading_pause(state.server.file(key::TLS_CRT).unwrap_or_default(), now);
    }
    let until = |end: Timestamp, before: Duration| {
        let due = end
            .checked_sub(before)
            .map_or(Duration::ZERO, |due| due.duration_since(now).try_into().unwrap_or_default());
        due + Duration::from_secs(1)
    };
    let renewal = state.server.file(key::TLS_CRT).and_then(not_after);
    let renewal = renewal.map_or(LOADING_PAUSE, |end| until(end, asked.lifetimes.renew_before));
    let since = state.authority.note(note::SINCE).and_then(|text| text.parse::<Timestamp>().ok());
    match (rotation(state), since.and_then(|since| since.checked_add(asked.lifetimes.overlap).ok())) {
        (Some(_), Some(end)) => until(end, Duration::ZERO).min(renewal),
        _ => renewal,
    }
}

/// As [`look_again`] for a certificate that somebody else renews: `None` unless a server shows another one. Nothing
/// reports when it has loaded the one in the Secret.
pub fn look_again_at_foreign(certificate: &str, observed: &Observed, now: Timestamp) -> Option<Duration> {
    let newest = not_after(certificate);
    let mut shown = observed.servers.iter().filter(|server| !server.leaving);
    shown
        .any(|server| server.certificate_not_after.is_some_and(|end| Some(end) != newest))
        .then(|| loading_pause(certificate, now))
}

/// A server that never shows a certificate, e.g. of an image that does not tell, is not asked all day long.
fn loading_pause(certificate: &str, now: Timestamp) -> Duration {
    let age =
        not_before(certificate).map_or(Duration::ZERO, |issued| now.duration_since(issued).unsigned_abs());
    (age.saturating_sub(issue::CLOCK_SKEW) / 4).clamp(LOADING_PAUSE, LOADING_PAUSE_MAX)
}

/// Pause while servers are to load a certificate.
const LOADING_PAUSE: Duration = Duration::from_secs(2);
/// The same, when they have not for a long time.
const LOADING_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Whether the server certificate is for what is asked, by whom, and lasts.
pub fn is_current(asked: &Asked, state: &State, now: Timestamp) -> bool {
    let server = &state.server;
    let lasts = server
        .file(key::TLS_CRT)
        .and_then(not_after)
        .is_some_and(|end| end.checked_sub(asked.lifetimes.renew_before).is_ok_and(|renewal| now < renewal));
    lasts
        && server.note(note::INPUTS) == Some(&inputs(asked, &state.authority))
        && server.note(note::CONTENT) == Some(&content(server))
}

/// Whether every server that exists shows the newest certificate. One that does not say is not taken to.
pub fn all_show(state: &State, observed: &Observed) -> bool {
    let newest = state.server.file(key::TLS_CRT).and_then(not_after);
    let shows = |shown: Option<Timestamp>| shown.is_some() && shown == newest;
    observed.servers.iter().filter(|server| !server.leaving).all(|server| shows(server.certificate_not_after))
}

/// Authorities that are trusted, the one that signs first.
pub fn trusted(authority: &Stored) -> String {
    let files = [key::CA_CRT, key::NEXT_CRT, key::PREVIOUS_CRT];
    files.iter().filter_map(|name| authority.file(name)).collect()
}

impl Asked {
    /// What a cluster asks for; `None` if its certificate is not ours to make. `annotations` are the
    /// NatsCluster's.
    pub fn of(cluster: &Cluster, names: Vec<String>, annotations: &BTreeMap<String, String>) -> Option<Self> {
        match &cluster.tls.as_ref()?.source {
            CertificateSource::SelfSigned(lifetimes) => Some(Self {
                lifetimes: *lifetimes,
                names,
                rotate_certificates: annotations.get(ROTATE_CERTIFICATES).cloned(),
                rotate_authority: annotations.get(ROTATE_AUTHORITY).cloned(),
            }),
            CertificateSource::CertManager(_) | CertificateSource::Secret(_) => None,
        }
    }
}

/// What is wrong with a certificate that somebody else made, or nothing. `folder` is how its place is called.
///
/// # Errors
/// What to do about it.
pub fn check(files: &Stored, folder: &str, name_needed: Option<&str>) -> Result<(), String> {
    for name in [key::TLS_CRT, key::TLS_KEY, key::CA_CRT] {
        if files.file(name).is_none_or(str::is_empty) {
            return Err(format!("{folder} has no {name}; servers need tls.crt, tls.key and ca.crt"));
        }
    }
    for name in [key::TLS_CRT, key::CA_CRT] {
        if files.file(name).and_then(not_after).is_none() {
            return Err(format!("{name} of {folder} is no certificate in PEM"));
        }
    }
    let names = files.file(key::TLS_CRT).map(dns_names).unwrap_or_default();
    match name_needed {
        Some(needed) if !names.iter().any(|name| matches(name, needed)) => Err(format!(
            "tls.crt of {folder} is not for {needed}, by which servers find each other, but for: {}",
            if names.is_empty() { "no DNS name".to_owned() } else { names.join(", ") }
        )),
        _ => Ok(()),
    }
}

/// Whether a name of a certificate stands for a host.
fn matches(name: &str, host: &str) -> bool {
    let wild = name.strip_prefix("*.").zip(host.split_once('.'));
    name.eq_ignore_ascii_case(host) || wild.is_some_and(|(base, (_, rest))| base.eq_ignore_ascii_case(rest))
}

/// Names under which servers and clients reach a cluster's servers, in pods.
pub fn names_in_pods(cluster: &Cluster) -> Vec<String> {
    let (name, namespace) = (&cluster.name, &cluster.namespace);
    let service = format!("{name}.{namespace}.svc");
    let headless = format!("{name}-headless");
    let mut names = vec![service.clone(), name.clone(), format!("{name}.{namespace}")];
    names.push(format!("{service}.cluster.local"));
    for base in [
        headless.clone(),
        format!("{headless}.{namespace}"),
        format!("{headless}.{namespace}.svc"),
        format!("{headless}.{namespace}.svc.cluster.local"),
    ] {
        names.push(format!("*.{base}"));
        names.push(base);
    }
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    with_extra(names, cluster)
}

/// The same for processes of this machine.
pub fn names_here(cluster: &Cluster) -> Vec<String> {
    with_extra(["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec(), cluster)
}

fn with_extra(mut names: Vec<String>, cluster: &Cluster) -> Vec<String> {
    for name in cluster.tls.iter().flat_map(|tls| &tls.extra_names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// End of the first certificate of a PEM text; `None` if there is none that can be read.
pub fn not_after(pem: &str) -> Option<Timestamp> {
    let first = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    let end = first.parse_x509().ok()?.validity().not_after.timestamp();
    Timestamp::from_second(end).ok()
}

/// Begin of the first certificate of a PEM text.
fn not_before(pem: &str) -> Option<Timestamp> {
    let first = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    Timestamp::from_second(first.parse_x509().ok()?.validity().not_before.timestamp()).ok()
}

/// DNS names of the first certificate of a PEM text.
pub fn dns_names(pem: &str) -> Vec<String> {
    let Some(Ok(first)) = Pem::iter_from_buffer(pem.as_bytes()).next() else { return Vec::new() };
    let Ok(certificate) = first.parse_x509() else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.clone()).unwrap_or_default();
    let dns = names.into_iter().filter_map(|name| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some(name.to_owned()),
        _ => None,
    });
    dns.collect()
}

fn inputs(asked: &Asked, authority: &Stored) -> String {
    let mut parts = vec![authority.file(key::CA_CRT).unwrap_or_default().to_owned(), trusted(authority)];
    parts.push(asked.rotate_certificates.clone().unwrap_or_default());
    parts.extend(asked.names.iter().cloned());
    hash(&parts)
}

fn content(server: &Stored) -> String {
    let files = [key::TLS_CRT, key::TLS_KEY, key::CA_CRT];
    hash(&files.map(|name| server.file(name).unwrap_or_default().to_owned()))
}

fn hash(parts: &[String]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
