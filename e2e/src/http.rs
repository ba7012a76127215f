//! Questions to the brokers' monitoring ports.

use std::time::Duration;

use anyhow::Result;

/// Status and body of an answer, whatever the status.
pub fn get(url: &str) -> Result<(u16, String)> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(5)))
        .http_status_as_error(false)
        .build();
    let mut response = config.new_agent().get(url).call()?;
    let status = response.status().as_u16();
    Ok((status, response.body_mut().read_to_string()?))
}

/// The JSON document at an address that answers 200.
pub fn json(url: &str) -> Result<serde_json::Value> {
    let (status, body) = get(url)?;
    anyhow::ensure!(status == 200, "{url}: status {status}: {body}");
    Ok(serde_json::from_str(&body)?)
}
