//! Names, labels and annotations by which objects are found again.

use std::collections::BTreeMap;

use crate::validate::Cluster;

/// Field manager of every server-side apply of the cluster controller.
pub const FIELD_MANAGER: &str = "starling.dev/natscluster";
/// Label: the instance, i.e. the `NatsCluster`'s name.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Label: the program.
pub const NAME: &str = "app.kubernetes.io/name";
/// Label: who looks after the object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const OPERATOR: &str = "starling-operator";
/// Value of [`NAME`].
pub const SERVER: &str = "starling-server";
/// Pod label: hash of the template that the pod was made from.
pub const TEMPLATE_HASH: &str = "starling.dev/template-hash";
/// Label of a Service for one server: that server's name.
pub const SERVER_OF_SERVICE: &str = "starling.dev/server";
/// Annotation of the config Secret: digest that a server reports when it has loaded the file.
pub const CONFIG_DIGEST: &str = "starling.dev/config-digest";
/// Annotation of the config Secret: digest of the last configuration that needed a restart.
pub const RESTART_DIGEST: &str = "starling.dev/config-restart-digest";
/// Annotation of the config Secret: the configuration that a server refused, and why.
pub const CONFIG_REFUSED: &str = "starling.dev/config-refused";
/// Annotation of a pod: digest of the configuration that its server was told to load, a blank, and since when
/// (RFC 3339). Its change also has the kubelet look for the file at once.
pub const CONFIG_RELOAD: &str = "starling.dev/config-reload";
/// Annotation of a NatsCluster: changing it replaces all servers, one at a time.
pub const RESTARTED_AT: &str = "starling.dev/restarted-at";

/// Labels by which a cluster's pods are selected; never changed, since selectors cannot be.
pub fn selector(cluster: &Cluster) -> BTreeMap<String, String> {
    BTreeMap::from([(NAME.to_owned(), SERVER.to_owned()), (INSTANCE.to_owned(), cluster.name.clone())])
}

/// Labels of every owned object.
pub fn labels(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut labels = selector(cluster);
    labels.insert(MANAGED_BY.to_owned(), OPERATOR.to_owned());
    labels
}

/// A selector as one string, as `kubectl -l` and the scale subresource take it.
pub fn selector_text(cluster: &Cluster) -> String {
    selector(cluster).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
