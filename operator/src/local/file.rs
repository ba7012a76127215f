//! The user's file.
//!
//! Owns reading a `NatsCluster` from YAML with complaints that name line and column, and changing one
//! number in it. Never touches anything that runs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::tenants::Tenants;
use super::yaml::{self, Key, Node};
use super::{LocalError, admission};
use crate::crd::{self, NatsCluster};
use crate::validate::{self, Cluster, Defaults};

/// What a file holds for us.
#[derive(Clone, Debug)]
pub struct Source {
    /// The cluster.
    pub cluster: Cluster,
    /// Secrets in the same file, for `config.mergeFrom`: (Secret, key) to value.
    pub secrets: BTreeMap<(String, String), String>,
    /// Accounts and users in the same file.
    pub tenants: Tenants,
    /// Annotations of the cluster.
    pub annotations: BTreeMap<String, String>,
    /// Fields that only mean something on Kubernetes, and are set.
    pub ignored: Vec<&'static str>,
}

/// Reads the text of a file. `label` names it in complaints.
///
/// # Errors
/// All complaints, one a line, each with line and column.
pub fn load(text: &str, label: &str) -> Result<Source, LocalError> {
    let documents = yaml::parse(text).map_err(|error| LocalError::File(format!("{label}: {error}")))?;
    let of_kind =
        |kind: &str| documents.iter().filter(move |node| node.value()["kind"] == kind).collect::<Vec<_>>();
    let clusters = of_kind("NatsCluster");
    let [node] = clusters.as_slice() else {
        let message = match clusters.get(1) {
            None => format!("{label}: line 1 column 1: no object with `kind: NatsCluster`"),
            Some(second) => {
                format!("{label}: {}: a second NatsCluster; put it into its own file", second.position(&[]))
            }
        };
        return Err(LocalError::File(message));
    };
    let object: NatsCluster = admitted(node, label)?;
    let cluster = validate::validate(&object, &Defaults::default()).map_err(|problems| {
        let line = |problem: validate::Invalid| {
            let path: Vec<Key> = problem.field.split('.').map(|name| Key::Field(name.to_owned())).collect();
            format!("{label}: {}: {problem}", node.position(&path))
        };
        LocalError::File(problems.into_iter().map(line).collect::<Vec<_>>().join("\n"))
    })?;
    let tenants = Tenants {
        accounts: of_kind("NatsAccount")
            .into_iter()
            .map(|node| tenant(node, &cluster, label))
            .collect::<Result<_, _>>()?,
        users: of_kind("NatsUser")
            .into_iter()
            .map(|node| tenant(node, &cluster, label))
            .collect::<Result<_, _>>()?,
    };
    let annotations = object.metadata.annotations.unwrap_or_default();
    Ok(Source { cluster, secrets: secrets(&of_kind("Secret")), tenants, annotations, ignored: ignored(node) })
}

/// An object that the API server would take.
fn admitted<K: DeserializeOwned>(node: &Node, label: &str) -> Result<K, LocalError> {
    let value = node.value();
    check_version(node, &value, label)?;
    let schema = crd::schema_of(value["kind"].as_str().unwrap_or_default()).unwrap_or_default();
    let complaints: Vec<String> = admission::check(&schema, &value)
        .into_iter()
        .map(|violation| {
            let place = admission::show_path(&violation.path);
            let message = violation.message;
            // Messages of CEL rules begin with the field already.
            let text = if message.contains(&place) { message } else { format!("{place}: {message}") };
            format!("{label}: {}: {text}", node.position(&violation.path))
        })
        .collect();
    if !complaints.is_empty() {
        return Err(LocalError::File(complaints.join("\n")));
    }
    serde_json::from_value(value)
        .map_err(|error| LocalError::File(format!("{label}: {}: {error}", node.position(&[]))))
}

/// An account or user, which must be this cluster's.
fn tenant<K: DeserializeOwned>(node: &Node, cluster: &Cluster, label: &str) -> Result<K, LocalError> {
    let object = admitted(node, label)?;
    let path = ["spec", "clusterRef", "name"].map(|name| Key::Field(name.to_owned()));
    let named = node.value()["spec"]["clusterRef"]["name"].clone();
    if named != cluster.name.as_str() {
        let problem = format!("spec.clusterRef.name: no NatsCluster {named} in this file");
        return Err(LocalError::File(format!("{label}: {}: {problem}", node.position(&path))));
    }
    Ok(object)
}

fn check_version(node: &Node, value: &Value, label: &str) -> Result<(), LocalError> {
    let wanted = format!("{}/{}", crd::GROUP, crd::VERSION);
    if value["apiVersion"] == wanted.as_str() {
        return Ok(());
    }
    let position = node.position(&[Key::Field("apiVersion".to_owned())]);
    Err(LocalError::File(format!("{label}: {position}: apiVersion must be {wanted}")))
}

fn secrets(nodes: &[&Node]) -> BTreeMap<(String, String), String> {
    let mut secrets = BTreeMap::new();
    for value in nodes.iter().map(|node| node.value()) {
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        for (key, text) in value["stringData"].as_object().into_iter().flatten() {
            if let Some(text) = text.as_str() {
                secrets.insert((name.to_owned(), key.clone()), text.to_owned());
            }
        }
    }
    secrets
}

/// Fields without a meaning for processes. Saying so beats doing nothing in silence.
fn ignored(node: &Node) -> Vec<&'static str> {
    const KUBERNETES_ONLY: &[&str] = &[
        "version",
        "image",
        "imagePullSecrets",
        "resources",
        "ipFamilyPolicy",
        "topology",
        "podTemplate",
        "disruptionBudget",
        "networkPolicy",
    ];
    let set = |name: &&&str| node.value_position(&["spec", name]).is_some();
    KUBERNETES_ONLY.iter().filter(set).copied().collect()
}

/// Changes `spec.replicas` in the file, and nothing else in it: comments and layout stay.
///
/// # Errors
/// When the file is broken before or would be after, e.g. with zero servers; it is not written then.
pub fn set_replicas(path: &Path, replicas: u32) -> Result<(), LocalError> {
    let label = path.display().to_string();
    let state = |what| move |source| LocalError::State { what, path: path.display().to_string(), source };
    let text = std::fs::read_to_string(path).map_err(state("cannot read"))?;
    let changed = with_replicas(&text, replicas)
        .ok_or_else(|| LocalError::File(format!("{label}: line 1 column 1: no spec.replicas to change")))?;
    load(&changed, &label)?;
    std::fs::write(path, changed).map_err(state("cannot write"))
}

fn with_replicas(text: &str, replicas: u32) -> Option<String> {
    let documents = yaml::parse(text).ok()?;
    let node = documents.iter().find(|node| node.value()["kind"] == "NatsCluster")?;
    let position = node.value_position(&["spec", "replicas"])?;
    let lines = text.split_inclusive('\n').map(str::to_owned);
    let changed = lines.enumerate().map(|(index, line)| {
        if index as u64 + 1 != position.line {
            return line;
        }
        let (before, after): (String, String) = {
            let column = usize::try_from(position.column.saturating_sub(1)).unwrap_or_default();
            (line.chars().take(column).collect(), line.chars().skip(column).collect())
        };
        let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        format!("{before}{replicas}{rest}")
    });
    Some(changed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "apiVersion: starling.dev/v1alpha1\nkind: NatsCluster\nmetadata:\n  name: orders\nspec:\n  # how many\n  replicas: 3 # three\n";

    fn complaint(from: &str, to: &str) -> String {
        assert!(FILE.contains(from));
        load(&FILE.replace(from, to), "f.yaml").expect_err("should be refused").to_string()
    }

    #[test]
    fn the_example_is_a_cluster_of_three() {
        let example = include_str!("../../../manifests/examples/cluster.yaml");
        assert!(example.lines().any(|line| line.trim() == "replicas: 3"));
        assert_eq!(load(example, "example").expect("loads").cluster.replicas, 3);
    }

    #[test]
    fn complaints_name_line_and_column() {
        assert_eq!(
            complaint("replicas: 3", "replcas: 3"),
            "f.yaml: line 7 column 3: spec.replcas: unknown field \"replcas\"; did you mean \"replicas\"?"
        );
        assert!(
            complaint("replicas: 3", "replicas: 0")
                .starts_with("f.yaml: line 7 column 3: spec.replicas must be")
        );
        assert!(complaint("replicas: 3", "replicas: [3").contains("line "));
        assert!(complaint("v1alpha1", "v2").starts_with("f.yaml: line 1 column 1: apiVersion must be"));
        assert!(complaint("NatsCluster", "Pod").contains("no object with `kind: NatsCluster`"));
        let merge = "config: {merge: {port: 1}}";
        assert!(
            complaint("replicas: 3", merge).contains("line 7 column 20: spec.config.merge.port: belongs")
        );
    }

    #[test]
    fn a_new_number_changes_nothing_else() {
        let changed = with_replicas(FILE, 12).expect("changed");
        assert_eq!(changed, FILE.replace("replicas: 3 #", "replicas: 12 #"));
    }
}
