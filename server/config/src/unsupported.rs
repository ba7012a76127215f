//! Blocks of features that are not built yet. The one place that says so, and the one to change when a
//! feature arrives.

use crate::grammar::Value;
use crate::reader::{Field, Reader};

/// Features that nats.conf knows and this server does not, yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    JetStream,
    LeafNodes,
    Gateway,
    WebSocket,
    Mqtt,
}

impl Feature {
    /// The feature of a top-level key.
    pub fn of_key(key: &str) -> Option<Feature> {
        match key {
            "jetstream" => Some(Feature::JetStream),
            "leaf" | "leafnodes" => Some(Feature::LeafNodes),
            "gateway" => Some(Feature::Gateway),
            "websocket" | "ws" => Some(Feature::WebSocket),
            "mqtt" => Some(Feature::Mqtt),
            _ => None,
        }
    }
}

/// Refuses the block unless it switches the feature off.
pub(crate) fn block(field: &Field<'_>, _feature: Feature, reader: &mut Reader) {
    let off = match &field.node.value {
        Value::Boolean(on) => !on,
        Value::String(text) => matches!(text.to_lowercase().as_str(), "disabled" | "disable"),
        Value::Map(map) => map.is_empty() || only_disabled(field),
        _ => false,
    };
    if !off && !field.node.is_variable {
        field.problem(
            reader,
            format!("{:?} is not supported yet: remove it, or run nats-server for it", field.written),
        );
    }
}

/// `{enabled: false}` and nothing that would matter.
fn only_disabled(field: &Field<'_>) -> bool {
    let Value::Map(map) = &field.node.value else { return false };
    map.iter()
        .any(|entry| entry.key.eq_ignore_ascii_case("enabled") && entry.node.value == Value::Boolean(false))
}
