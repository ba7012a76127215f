//! Keys and certificates are made here, and nowhere else.
//!
//! Owns the only randomness of certificates. Never decides that one is due: [`super::step`] does.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::{Asked, State, Step, Stored, content, inputs, is_current, key, not_after, note, step, trusted};
use crate::rollout::Observed;

/// Certificates are valid from a little earlier on: clocks differ.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The library refused, most likely a name.
    #[error("cannot make a certificate: {0}")]
    Refused(#[from] rcgen::Error),
    /// A name of `spec.tls.extraNames`.
    #[error("cannot make a certificate for the name {0:?}; see spec.tls.extraNames")]
    Name(String),
    /// A time beyond the calendar.
    #[error("cannot make a certificate that lasts so long; see spec.tls.selfSigned")]
    TooLong,
}

/// What [`renew`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// What is to be kept from now on; the authority is to be written first.
    pub state: State,
    /// The authority's step.
    pub step: Step,
    /// Whether there is a new server certificate.
    pub issued: bool,
}

/// Does what is due: at most one step of the authority, and a new server certificate if one is needed.
///
/// # Errors
/// See [`IssueError`].
pub fn renew(
    asked: &Asked,
    state: &State,
    observed: &Observed,
    now: Timestamp,
) -> Result<Renewed, IssueError> {
    let due = step(asked, state, observed, now);
    let mut state = state.clone();
    take(due, asked, &mut state.authority, now)?;
    let issued = !is_current(asked, &state, now);
    if issued {
        state.server = server(asked, &state, now)?;
    }
    Ok(Renewed { state, step: due, issued })
}

fn take(step: Step, asked: &Asked, authority: &mut Stored, now: Timestamp) -> Result<(), IssueError> {
    let data = &mut authority.data;
    match step {
        Step::Keep => return Ok(()),
        Step::Found => {
            data.clear();
            let (certificate, secret) = make_authority(asked, now)?;
            data.insert(key::CA_CRT.to_owned(), certificate);
            data.insert(key::CA_KEY.to_owned(), secret);
        }
        Step::Introduce => {
            let (certificate, secret) = make_authority(asked, now)?;
            data.insert(key::NEXT_CRT.to_owned(), certificate);
            data.insert(key::NEXT_KEY.to_owned(), secret);
        }
        Step::Promote => {
            let next = (data.remove(key::NEXT_CRT), data.remove(key::NEXT_KEY));
            if let (Some(certificate), Some(secret)) = next {
                let previous = data.insert(key::CA_CRT.to_owned(), certificate);
                data.insert(key::CA_KEY.to_owned(), secret);
                data.insert(key::PREVIOUS_CRT.to_owned(), previous.unwrap_or_default());
            }
        }
        Step::Retire => {
            data.remove(key::PREVIOUS_CRT);
        }
    }
    authority.notes.insert(note::SINCE.to_owned(), now.to_string());
    if matches!(step, Step::Found | Step::Introduce) {
        // What is wished while a rotation is under way is carried out after it.
        authority.notes.insert(note::ROTATED.to_owned(), asked.rotate_authority.clone().unwrap_or_default());
    }
    Ok(())
}

fn make_authority(asked: &Asked, now: Timestamp) -> Result<(String, String), IssueError> {
    let secret = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    // Authorities of one cluster have different names, or verifiers would mix them up.
    let name = format!("{} authority {}", asked.names.first().map_or("starling", String::as_str), now);
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.not_before = time(now, None)?;
    parameters.not_after = time(now, Some(asked.lifetimes.authority_validity))?;
    Ok((parameters.self_signed(&secret)?.pem(), secret.serialize_pem()))
}

fn server(asked: &Asked, state: &State, now: Timestamp) -> Result<Stored, IssueError> {
    let authority = &state.authority;
    let signing = KeyPair::from_pem(authority.file(key::CA_KEY).unwrap_or_default())?;
    let ca = authority.file(key::CA_CRT).unwrap_or_default();
    let issuer = Issuer::from_ca_cert_pem(ca, signing)?;
    let secret = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    for name in &asked.names {
        parameters.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|_| IssueError::Name(name.clone()))?),
        });
    }
    parameters.distinguished_name.remove(DnType::CommonName);
    let name: String = asked.names.first().map_or("starling", String::as_str).chars().take(64).collect();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Servers are each other's clients.
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    parameters.not_before = time(now, None)?;
    let mut end = time(now, Some(asked.lifetimes.validity))?;
    if let Some(last) =
        not_after(ca).and_then(|last| OffsetDateTime::from_unix_timestamp(last.as_second()).ok())
    {
        end = end.min(last);
    }
    // By its end a certificate is told from the one before.
    let before = state.server.file(key::TLS_CRT).and_then(not_after);
    if before.is_some_and(|before| before.as_second() == end.unix_timestamp()) {
        end -= time::Duration::seconds(1);
    }
    parameters.not_after = end;
    let certificate = parameters.signed_by(&secret, &issuer)?;
    let mut server = Stored::default();
    server.data.insert(key::TLS_CRT.to_owned(), certificate.pem());
    server.data.insert(key::TLS_KEY.to_owned(), secret.serialize_pem());
    server.data.insert(key::CA_CRT.to_owned(), trusted(authority));
    server.notes.insert(note::INPUTS.to_owned(), inputs(asked, authority));
    server.notes.insert(note::CONTENT.to_owned(), content(&server));
    Ok(server)
}

/// A time in the library's type: a little before now, or a while after.
fn time(now: Timestamp, after: Option<Duration>) -> Result<OffsetDateTime, IssueError> {
    let moment = match after {
        Some(span) => now.checked_add(span),
        None => now.checked_sub(CLOCK_SKEW),
    };
    let second = moment.map_err(|_| IssueError::TooLong)?.as_second();
    OffsetDateTime::from_unix_timestamp(second).map_err(|_| IssueError::TooLong)
}
