//! What people do to a cluster on an ordinary day, and what others do to its objects.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::nats_cluster::{NatsCluster, READY_TIMEOUT};
use super::{Context, OPERATOR_NAMESPACE};
use crate::kubernetes::{Kubernetes, condition, expect_condition, shown};
use crate::process::project_root;

const NAME: &str = "everyday";
/// What was refused is looked at again after a minute.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(90);
/// How long nothing may happen.
const QUIET: Duration = Duration::from_secs(5);

/// Plays the scenario.
pub fn play(context: &mut Context) -> Result<()> {
    let before = context.kubernetes.inventory()?;
    context.step("kubectl explain tells what fields are for", explain)?;
    context.step("every rule of the API is enforced by the API server, with its message", rules)?;
    context.step("everyday: a cluster of 3", |context| {
        let cluster = NatsCluster::new(&context.kubernetes, NAME);
        cluster.apply("{replicas: 3}")?;
        cluster.wait_ready(3)?;
        Ok(String::new())
    })?;
    context.step(
        "objects that are deleted or edited come back, no server is touched, others' fields stay",
        drift,
    )?;
    context.step("paused: seen and not done; unpaused: done", pause)?;
    context.step("hibernated: no pod, all else stays; woken: as before", hibernate)?;
    context.step("podTemplate reaches every pod, one at a time", pod_template)?;
    context.step("an operator with rights in one namespace only", namespaced)?;
    context.step("everyday: kubectl delete", |context| {
        NatsCluster::new(&context.kubernetes, NAME).delete(&before)
    })?;
    context
        .step("certificates by cert-manager's objects: asked for, loaded, renewed without a restart", issued)
}

fn explain(context: &Context) -> Result<String> {
    for (field, words) in [
        ("natsclusters.spec.replicas", "Number of servers"),
        ("natsclusters.spec.topology.zone", "az:ZONE"),
        ("natsclusters.status.servers.configDigest", "Digest"),
        ("natsaccounts.spec.exports", ""),
        ("natsusers.spec.credentials.rotateAfter", ""),
    ] {
        let text = context.kubernetes.kubectl(&["explain", field])?;
        ensure!(text.contains("DESCRIPTION") && text.contains(words), "{field}: {text}");
    }
    Ok(String::new())
}

/// The cases of the operator's own test, against a real API server. Nothing of them is carried out: what must exist
/// before a change is paused, and the change is a dry run.
fn rules(context: &Context) -> Result<String> {
    let path = project_root().join("operator/tests/rules.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let cases: Vec<Value> = serde_json::from_str(&text)?;
    for case in &cases {
        let (kind, name) = (case["kind"].as_str().context("kind")?, case["name"].as_str().context("name")?);
        let message = case["message"].as_str().context("message")?;
        let object = |spec: &Value| {
            let mut spec = spec.clone();
            if kind == "NatsCluster" && !case["old"].is_null() {
                spec["paused"] = Value::Bool(true);
            }
            json!({"apiVersion": "starling.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}).to_string()
        };
        if !case["old"].is_null() {
            context.kubernetes.with_manifest(&["apply"], &object(&case["old"]))?;
        }
        let refused = context.kubernetes.with_manifest(&["apply", "--dry-run=server"], &object(&case["new"]));
        if !case["old"].is_null() {
            context.kubernetes.kubectl(&["delete", kind, name])?;
        }
        let Err(error) = refused else { bail!("{case} was accepted") };
        let told = format!("{error:#}");
        // A name that no object may have is refused before rules are asked.
        ensure!(told.contains(message) || told.contains("RFC 1123"), "{case}: {told}");
    }
    Ok(format!("{} rules", cases.len()))
}

/// Names and uids of the cluster's pods.
fn pods(kubernetes: &Kubernetes) -> Result<Vec<(Value, Value)>> {
    let list = kubernetes.get(&["pods", "-l", &format!("app.kubernetes.io/instance={NAME}")])?;
    let items = list["items"].as_array().context("no list of pods")?;
    Ok(items.iter().map(|pod| (pod["metadata"]["name"].clone(), pod["metadata"]["uid"].clone())).collect())
}

fn drift(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    let before = pods(kubernetes)?;
    let start = Instant::now();
    let deleted = [
        "service/everyday",
        "service/everyday-headless",
        "networkpolicy/everyday",
        "poddisruptionbudget/everyday",
        "serviceaccount/everyday",
        "secret/everyday-config",
    ];
    for object in deleted {
        let uid = kubernetes.get(&[object])?["metadata"]["uid"].clone();
        kubernetes.kubectl(&["delete", object, "--wait=false"])?;
        kubernetes.wait_for(&format!("{object} is back"), READY_TIMEOUT, || {
            let found = kubernetes.get(&[object])?;
            ensure!(found["metadata"]["uid"] != uid, "{object} is still the old one");
            Ok(())
        })?;
    }
    kubernetes.kubectl(&["label", "service", NAME, "team=a"])?;
    let edit = |patch| kubernetes.kubectl(&["patch", "service", NAME, "--type=json", "-p", patch]);
    edit(r#"[{"op": "replace", "path": "/spec/ports/0/port", "value": 9999}]"#)?;
    kubernetes.wait_for("the port is put back", READY_TIMEOUT, || {
        let service = kubernetes.get(&["service", NAME])?;
        ensure!(service["spec"]["ports"][0]["port"] == 4222, "{}", service["spec"]["ports"]);
        ensure!(service["metadata"]["labels"]["team"] == "a", "somebody's label is gone");
        Ok(())
    })?;
    edit(r#"[{"op": "add", "path": "/spec/ports/-", "value": {"name": "theirs", "port": 9999}}]"#)?;
    kubernetes.wait_for("the port that nobody wants is gone", READY_TIMEOUT, || {
        let ports = kubernetes.get(&["service", NAME])?["spec"]["ports"].clone();
        ensure!(
            ports.as_array().is_some_and(|ports| ports.iter().all(|port| port["port"] != 9999)),
            "{ports}"
        );
        Ok(())
    })?;
    let service = kubernetes.kubectl(&["get", "service", NAME, "-o", "json", "--show-managed-fields"])?;
    let service: Value = serde_json::from_str(&service)?;
    let ours = service["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["manager"] == "starling.dev/natscluster" && entry["operation"] == "Apply");
    let ours = ours.context("no field manager of ours")?;
    ensure!(ours["fieldsV1"]["f:metadata"]["f:labels"]["f:team"].is_null(), "we own somebody's label");
    // A number of servers that nobody asked us for.
    kubernetes.kubectl(&["scale", "statefulset", NAME, "--replicas=4"])?;
    kubernetes.wait_for("the StatefulSet is put back", READY_TIMEOUT, || {
        let set = kubernetes.get(&["statefulset", NAME])?;
        ensure!(set["spec"]["replicas"] == 3, "{} replicas", set["spec"]["replicas"]);
        cluster.expect_ready(3)
    })?;
    cluster.wait_ready(3)?;
    ensure!(pods(kubernetes)? == before, "a server was replaced");
    Ok(format!("{} objects deleted, 3 edits, all put right after {}", deleted.len(), shown(start)))
}

fn pause(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    let before = pods(kubernetes)?;
    cluster.apply("{replicas: 2, paused: true}")?;
    kubernetes.wait_for("Paused is told", READY_TIMEOUT, || {
        match condition(&cluster.object()?, "Ready") {
            Some((_, "Paused", _)) => Ok(()),
            other => bail!("Ready is {other:?}"),
        }
    })?;
    std::thread::sleep(QUIET);
    ensure!(pods(kubernetes)? == before, "something was done");
    cluster.apply("{replicas: 2}")?;
    cluster.wait_ready(2)?;
    cluster.apply("{replicas: 3}")?;
    cluster.wait_ready(3)?;
    Ok(String::new())
}

fn hibernate(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    let start = Instant::now();
    cluster.apply("{replicas: 3, hibernated: true}")?;
    kubernetes.wait_for("no server runs", READY_TIMEOUT, || {
        ensure!(pods(kubernetes)?.is_empty(), "there are pods");
        match condition(&cluster.object()?, "Ready") {
            Some(("False", "Hibernated", _)) => Ok(()),
            other => bail!("Ready is {other:?}"),
        }
    })?;
    let asleep = shown(start);
    kubernetes.get(&["service", NAME])?;
    kubernetes.get(&["secret", "everyday-config"])?;
    let start = Instant::now();
    cluster.apply("{replicas: 3}")?;
    cluster.wait_ready(3)?;
    Ok(format!("asleep after {asleep}, awake after {}", shown(start)))
}

fn pod_template(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    let start = Instant::now();
    cluster.apply(
        "{replicas: 3, podTemplate: {labels: {team: a}, spec: {containers: [{name: nats, env: [{name: X, value: one}]}]}}}",
    )?;
    kubernetes.wait_for("every pod is of the template", READY_TIMEOUT, || {
        let list = kubernetes.get(&["pods", "-l", &format!("app.kubernetes.io/instance={NAME},team=a")])?;
        let with_it = list["items"].as_array().into_iter().flatten().filter(|pod| {
            let env = pod["spec"]["containers"][0]["env"].as_array();
            env.is_some_and(|env| env.iter().any(|env| env["name"] == "X" && env["value"] == "one"))
        });
        let count = with_it.count();
        ensure!(count == 3, "{count} pods are");
        cluster.expect_ready(3)
    })?;
    Ok(format!("after {}", shown(start)))
}

fn namespaced(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let cluster = NatsCluster::new(kubernetes, NAME);
    let chart = project_root().join("charts/starling-operator").display().to_string();
    let mut operator = kubernetes.clone();
    OPERATOR_NAMESPACE.clone_into(&mut operator.namespace);
    let install = |namespaces: &str| {
        operator.helm(&[
            "upgrade",
            "starling-operator",
            &chart,
            "--reuse-values",
            "--set-json",
            &format!("watchNamespaces={namespaces}"),
        ])?;
        operator.kubectl(&["rollout", "status", "deployment/starling-operator", "--timeout=90s"])
    };
    install(&json!([kubernetes.namespace]).to_string())?;
    ensure!(
        kubernetes.kubectl(&["get", "clusterrole", "starling-operator"]).is_err(),
        "it still has rights everywhere"
    );
    let who = format!("--as=system:serviceaccount:{OPERATOR_NAMESPACE}:starling-operator");
    for (namespace, expected) in [(kubernetes.namespace.as_str(), "yes"), ("default", "no")] {
        // It fails where the answer is no.
        let answer = kubernetes.kubectl(&["-n", namespace, "auth", "can-i", "list", "secrets", &who]);
        let answer = answer.unwrap_or_else(|_| "no".to_owned());
        ensure!(answer.trim() == expected, "secrets of {namespace}: {answer}");
    }
    cluster.scale(4)?;
    cluster.wait_ready(4)?;
    install("[]")?;
    kubernetes.kubectl(&["get", "clusterrole", "starling-operator"])?;
    cluster.scale(3)?;
    cluster.wait_ready(3)?;
    Ok(String::new())
}

/// As much of cert-manager as we ask for.
const CERT_MANAGER: &str = r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
  "metadata": {"name": "certificates.cert-manager.io"},
  "spec": {"group": "cert-manager.io", "scope": "Namespaced", "names": {"kind": "Certificate", "plural": "certificates"},
    "versions": [{"name": "v1", "served": true, "storage": true,
      "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}"#;

fn issued(context: &Context) -> Result<String> {
    let kubernetes = &context.kubernetes;
    let before = kubernetes.inventory()?;
    let cluster = NatsCluster::new(kubernetes, "issued");
    cluster.apply("{replicas: 1, tls: {mode: CertManager, certManager: {issuerRef: {name: test}}}}")?;
    kubernetes.wait_for("CertManagerMissing is told", READY_TIMEOUT, || {
        match condition(&cluster.object()?, "Stalled") {
            Some(("True", "CertManagerMissing", _)) => Ok(()),
            other => bail!("Stalled is {other:?}"),
        }
    })?;
    kubernetes.with_manifest(&["apply"], CERT_MANAGER)?;
    let start = Instant::now();
    let request = kubernetes.wait_for("a certificate is asked for", REFUSED_TIMEOUT, || {
        kubernetes.get(&["certificates.cert-manager.io", "issued"])
    })?;
    ensure!(request["spec"]["issuerRef"]["name"] == "test", "{}", request["spec"]);
    issue(kubernetes, &request)?;
    let servers = cluster.wait_ready(1)?;
    let ready = shown(start);
    let end = cluster.object()?["status"]["certificates"]["notAfter"].clone();
    issue(kubernetes, &request)?;
    kubernetes.wait_for("the renewed one is shown", READY_TIMEOUT, || {
        let object = cluster.object()?;
        ensure!(object["status"]["certificates"]["notAfter"] != end, "still {end}");
        expect_condition(&object, "CertificatesReady", "True")
    })?;
    ensure!(cluster.servers()? == servers, "a server was restarted");
    let secret = request["spec"]["secretName"].as_str().context("no secretName")?;
    cluster.kubernetes.kubectl(&["delete", "secret", secret])?;
    cluster.delete(&before)?;
    kubernetes.kubectl(&["delete", "crd", "certificates.cert-manager.io"])?;
    Ok(format!("Ready {ready} after it was asked for"))
}

/// What an issuer of cert-manager does: a new certificate for the names, in the Secret.
fn issue(kubernetes: &Kubernetes, request: &Value) -> Result<()> {
    let names = request["spec"]["dnsNames"].as_array().context("no dnsNames")?;
    let names: Vec<String> = names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let secret = request["spec"]["secretName"].as_str().context("no secretName")?;
    let signing = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = authority.self_signed(&signing)?.pem();
    let key = KeyPair::generate()?;
    let mut wanted = CertificateParams::new(names)?;
    // A renewed one is told from the one before by its end.
    let renewed = kubernetes.get(&["secret", secret]).is_ok();
    wanted.not_after = rcgen::date_time_ymd(if renewed { 2032 } else { 2031 }, 1, 1);
    let certificate = wanted.signed_by(&key, &Issuer::new(authority, signing))?.pem();
    let data = json!({"tls.crt": certificate, "tls.key": key.serialize_pem(), "ca.crt": ca});
    let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": secret}, "stringData": data});
    kubernetes.with_manifest(&["apply", "--server-side", "--force-conflicts"], &object.to_string()).map(drop)
}
