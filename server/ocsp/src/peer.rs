//! The verdict about a certificate of a peer, from what is cached and what its responder answers.

use crate::chain::Link;
use crate::staple::date;
use crate::{Error, Response, Status};
use std::time::Duration;

/// `ocsp_peer` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerOptions {
    /// How far the clocks of this machine and a responder may be apart.
    pub clock_skew: Duration,
    /// Nobody is turned away; what would be is logged.
    pub warn_only: bool,
    /// A certificate that its responder does not know will do.
    pub unknown_is_good: bool,
    /// A certificate whose responder cannot be reached will do, unless it is known to have been revoked.
    pub allow_when_unreachable: bool,
    /// How long a response counts whose responder does not say.
    pub time_to_live: Duration,
}

/// What became of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it will not do; `None` if it will. The words are those of nats-server's events.
    pub invalid: Option<String>,
    /// What the log should say.
    pub warnings: Vec<String>,
}

/// What a cached response is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// It counts.
    Current(Response),
    /// To be forgotten; `revoked` if it said so while it counted.
    Useless {
        /// What it said.
        revoked: bool,
    },
}

/// Whether a response counts at this time.
///
/// # Errors
/// [`Error::NotCurrent`]
pub fn is_current(response: &Response, options: &PeerOptions, now_millis: i64) -> Result<(), Error> {
    let skew = millis(options.clock_skew);
    let until = match response.next_update_millis {
        Some(next) => next,
        None => response.this_update_millis.saturating_add(millis(options.time_to_live)),
    };
    if until < now_millis.saturating_sub(skew) {
        return Err(Error::NotCurrent(format!("of the past: it counted until {}", date(until))));
    }
    if response.this_update_millis > now_millis.saturating_add(skew) {
        let from = date(response.this_update_millis);
        return Err(Error::NotCurrent(format!("of the future: it counts from {from}")));
    }
    Ok(())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Looks at a cached response.
pub fn judge_cached(cached: &[u8], link: &Link, options: &PeerOptions, now_millis: i64) -> Cached {
    match Response::parse(cached, &link.certificate, &link.issuer) {
        Ok(response) if is_current(&response, options, now_millis).is_ok() => Cached::Current(response),
        Ok(response) => Cached::Useless { revoked: response.status == Status::Revoked },
        Err(_) => Cached::Useless { revoked: false },
    }
}

/// Judges by a response that counts.
pub fn judge_response(response: &Response, link: &Link, options: &PeerOptions) -> Verdict {
    let is_good = match response.status {
        Status::Good => true,
        Status::Unknown => options.unknown_is_good,
        Status::Revoked => false,
    };
    if is_good {
        return Verdict::default();
    }
    let (subject, status) = (&link.certificate.subject_name, response.status.name());
    let warning = format!("OCSP: the authority of [{subject}] says that it is {status}");
    invalid(format!("Invalid OCSP response status: {status}"), warning, link, options)
}

/// Judges by what a responder answered, or why there is no answer. The response is for the cache.
/// `was_revoked`: a response that counts no more said so.
pub fn judge_answer(
    answer: Result<&[u8], String>,
    was_revoked: bool,
    link: &Link,
    options: &PeerOptions,
    now_millis: i64,
) -> (Verdict, Option<Response>) {
    let subject = &link.certificate.subject_name;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return (unreachable(&error, was_revoked, link, options), None),
    };
    let parsed = Response::parse(answer, &link.certificate, &link.issuer);
    let current = parsed.and_then(|response| is_current(&response, options, now_millis).map(|()| response));
    match current {
        Ok(response) => (judge_response(&response, link, options), Some(response)),
        Err(error) => {
            let reason = match error {
                Error::NotDelegated => format!("Invalid OCSP response delegation: {subject}"),
                Error::NotCurrent(_) => "OCSP response not in effectivity window".into(),
                _ => "Failed OCSP response parse".into(),
            };
            let warning = format!("OCSP: the answer about [{subject}] cannot be used: {error}");
            (invalid(reason, warning, link, options), None)
        }
    }
}

fn unreachable(error: &str, was_revoked: bool, link: &Link, options: &PeerOptions) -> Verdict {
    let subject = &link.certificate.subject_name;
    let warning = format!("OCSP: no answer about [{subject}]: {error}");
    let mut verdict = invalid("Failed OCSP response fetch".into(), warning, link, options);
    if verdict.invalid.is_some() && options.allow_when_unreachable {
        verdict.warnings.push(match was_revoked {
            true => format!("OCSP: [{subject}] was revoked when its responder could be reached: refused"),
            false => format!("OCSP: [{subject}] is allowed, by allow_when_ca_unreachable"),
        });
        if !was_revoked {
            verdict.invalid = None;
        }
    }
    verdict
}

fn invalid(reason: String, warning: String, link: &Link, options: &PeerOptions) -> Verdict {
    let mut warnings = vec![warning];
    if options.warn_only {
        warnings.push(format!("OCSP: [{}] is allowed, by warn_only", link.certificate.subject_name));
    }
    Verdict { invalid: Some(reason).filter(|_| !options.warn_only), warnings }
}
