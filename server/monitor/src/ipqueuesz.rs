//! `/ipqueuesz`: depth of internal queues.
//!
//! Owns the document. Never names queues: they are the engine's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::field::is_default;
use crate::query::{Error, Query};
use crate::source::Source;

/// What a request for `/ipqueuesz` asks; the JSON form is the payload of `$SYS.REQ.SERVER.*.IPQUEUESZ`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IpqueueszOptions {
    /// Show empty queues too.
    pub all: bool,
    /// Only queues with this text in their name.
    pub filter: String,
}

impl IpqueueszOptions {
    /// Reads the parameters of the HTTP endpoint.
    pub fn parse(query: &Query<'_>) -> Result<Self, Error> {
        Ok(Self { all: query.boolean("all")?, filter: query.text("queues").into_owned() })
    }
}

/// Depth of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueDepth {
    /// Waiting.
    pub pending: u64,
    /// Taken out and being worked on.
    #[serde(skip_serializing_if = "is_default")]
    pub in_progress: u64,
}

/// Answers `/ipqueuesz`.
pub fn document(source: &dyn Source, options: &IpqueueszOptions) -> BTreeMap<String, QueueDepth> {
    let mut queues = source.queues();
    queues.retain(|name, depth| {
        (options.all || *depth != QueueDepth::default()) && name.contains(options.filter.as_str())
    });
    queues
}
