//! Asking a responder, over HTTP. Every call waits, for as long as it is told at most.

use std::time::Duration;
use ureq::Agent;

/// A response is a few hundred bytes to a few KB.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

fn agent(timeout: Duration) -> Agent {
    Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false).build().new_agent()
}

/// Asks by GET, one responder after the other, for a response of any meaning.
///
/// # Errors
/// What the last one said, or why there was none.
pub fn get<'a>(
    responders: impl Iterator<Item = &'a str>,
    request: &[u8],
    timeout: Duration,
) -> Result<Vec<u8>, String> {
    let agent = agent(timeout);
    let mut last = "its certificate names no responder".to_owned();
    for responder in responders {
        tracing::debug!("Trying OCSP responder url [{responder}]");
        match answer(agent.get(ocsp::url_of_request(responder, request)).call()) {
            Ok(answer) => return Ok(answer),
            Err(error) => last = format!("{responder}: {error}"),
        }
    }
    Err(last)
}

/// Asks one responder by POST and, where it does not take that, by GET.
///
/// # Errors
/// Why there is no answer.
pub fn post_or_get(responder: &str, request: &[u8], timeout: Duration) -> Result<Vec<u8>, String> {
    let agent = agent(timeout);
    let posted = agent
        .post(responder.trim_end_matches('/'))
        .header("Content-Type", "application/ocsp-request")
        .header("Accept", "application/ocsp-response")
        .send(request);
    answer(posted).or_else(|posted| {
        let got = answer(agent.get(ocsp::url_of_request(responder, request)).call());
        got.map_err(|got| format!("by POST: {posted}; by GET: {got}"))
    })
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Vec<u8>, String> {
    let mut response = result.map_err(|error| match error {
        ureq::Error::TlsRequired => "https is not supported here; responders are asked over http".to_owned(),
        error => error.to_string(),
    })?;
    if !response.status().is_success() {
        return Err(format!("bad OCSP responder http status: {}", response.status()));
    }
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
    body.read_to_vec().map_err(|error| error.to_string())
}
