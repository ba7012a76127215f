//! What several tests of the operator begin with.

use operator::crd::NatsCluster;
use operator::validate::{Cluster, Defaults, validate};
use serde_json::{Value, json};

/// The cluster `shop/orders` with this `spec`.
pub fn cluster(spec: Value) -> Cluster {
    let object: NatsCluster = serde_json::from_value(json!({
        "apiVersion": "starling.dev/v1alpha1", "kind": "NatsCluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "ours"}, "spec": spec,
    }))
    .expect("a NatsCluster");
    validate(&object, &Defaults::default()).expect("valid")
}
