//! Stapling: whether a server shows a response beside its own certificate, and when it looks for a new one.

use crate::chain::Authorities;
use crate::{Certificate, Error, Response};
use jiff::Timestamp;
use std::time::Duration;

/// Between looks when the responder does not say when there will be news.
const LOOK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Between looks when the news is overdue.
const LOOK_AGAIN: Duration = Duration::from_secs(2 * 60);

/// `ocsp` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// If the certificate demands it.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
    /// If the certificate demands it; and a revoked one ends the server.
    Must,
}

/// What follows for one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// A response is shown, and a server without one does not start.
    pub staples: bool,
    /// A status other than good ends the server.
    pub ends_when_revoked: bool,
    /// The certificate demands a response and will be shown without.
    pub disregards_demand: bool,
}

/// `mode`: `None` if nothing is configured, which is [`Mode::Auto`].
pub fn plan(mode: Option<Mode>, must_staple: bool) -> Plan {
    match mode.unwrap_or(Mode::Auto) {
        Mode::Never => Plan { staples: false, ends_when_revoked: false, disregards_demand: must_staple },
        Mode::Always => Plan { staples: true, ends_when_revoked: true, disregards_demand: false },
        mode => Plan {
            staples: must_staple,
            ends_when_revoked: must_staple && mode == Mode::Must,
            disregards_demand: false,
        },
    }
}

/// Whether a response may be shown at this time.
///
/// # Errors
/// [`Error::NotCurrent`]
pub fn check_validity(response: &Response, now_millis: i64) -> Result<(), Error> {
    if let Some(next) = response.next_update_millis
        && next < now_millis
    {
        return Err(Error::NotCurrent(format!("of the past: its next update was due at {}", date(next))));
    }
    if response.this_update_millis > now_millis {
        let from = date(response.this_update_millis);
        return Err(Error::NotCurrent(format!("of the future: it is valid from {from}")));
    }
    Ok(())
}

/// How long to wait before the responder is asked again: half of the time that is left.
pub fn next_look(next_update_millis: Option<i64>, now_millis: i64) -> Duration {
    let Some(next) = next_update_millis else { return LOOK_EVERY };
    match u64::try_from(next.saturating_sub(now_millis)) {
        Ok(left) => Duration::from_millis(left / 2),
        Err(_) => LOOK_AGAIN,
    }
}

/// Who issued the first certificate of the server's chain: the second one, or an authority of `ca_file`.
///
/// # Errors
/// [`Error::NoIssuer`], [`Error::BadIssuer`]
pub fn issuer(chain: &[Certificate], authorities: &Authorities) -> Result<Certificate, Error> {
    let (leaf, issuer) = match chain {
        [] => return Err(Error::NoIssuer),
        [leaf] => {
            let mut known = authorities.certificates().iter();
            let signed = |known: &&Certificate| known.subject == leaf.issuer && known.verify(leaf).is_ok();
            (leaf, known.find(signed).ok_or(Error::NoIssuer)?)
        }
        [leaf, second, ..] => (leaf, second),
    };
    if issuer.verify(leaf).is_err() {
        return Err(Error::BadIssuer("the second certificate of cert_file did not sign the first"));
    }
    if !issuer.is_authority {
        return Err(Error::BadIssuer("its basic constraints do not make it an authority"));
    }
    Ok(issuer.clone())
}

/// As RFC 3339 writes it.
pub(crate) fn date(millis: i64) -> String {
    Timestamp::from_millisecond(millis).map_or_else(|_| "?".into(), |time| time.to_string())
}
