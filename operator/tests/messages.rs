//! Every CEL rule of every kind, broken by an object, with the message that the user sees; and no rule without.

use std::collections::BTreeSet;

use kube::core::cel::Validator;
use operator::crd::{NatsAccount, NatsCluster, NatsUser, schema_of};
use serde_json::{Value, json};

/// An object with its defaults, as the API server has it when it asks the rules.
fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let written = json!({"apiVersion": "starling.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let full = match kind {
        "NatsCluster" => serde_json::from_value::<NatsCluster>(written).map(serde_json::to_value),
        "NatsAccount" => serde_json::from_value::<NatsAccount>(written).map(serde_json::to_value),
        _ => serde_json::from_value::<NatsUser>(written).map(serde_json::to_value),
    };
    full.unwrap_or_else(|error| panic!("{kind} {spec}: {error}")).expect("JSON")
}

fn told(kind: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schema_of(kind).expect("a kind of ours");
    match Validator::new().validate(&schema, new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect(),
    }
}

/// All messages of a schema's rules.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            for rule in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                // A rule without a message would show its expression to the user.
                found.insert(rule["message"].as_str().expect("a message").to_owned());
            }
            map.values().for_each(|inner| messages(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| messages(inner, found)),
        _ => {}
    }
}

/// (kind, name, what was there, what is asked for, what the user is told)
fn cases() -> Vec<(&'static str, &'static str, Option<Value>, Value, &'static str)> {
    let account = |more: Value| with(json!({"clusterRef": {"name": "orders"}}), more);
    let user =
        |more: Value| with(json!({"clusterRef": {"name": "orders"}, "accountRef": {"name": "shop"}}), more);
    let listener = |more: Value| json!({"listeners": [with(json!({"name": "client"}), more)]});
    vec![
        (
            "NatsCluster",
            "9lives",
            None,
            json!({}),
            "metadata.name must be a DNS label of at most 50 characters that begins with a letter: servers and Services are named after it",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"version": "1", "image": "a:1"}),
            "at most one of spec.version and spec.image may be set",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"monitoring": {"port": 4222}}),
            "the ports of spec.listeners, spec.cluster and spec.monitoring must differ",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            with(listener(json!({"tls": {"mode": "Required"}})), json!({"tls": {"mode": "Disabled"}})),
            "spec.listeners[].tls needs a certificate: spec.tls.mode must not be Disabled",
        ),
        (
            "NatsCluster",
            "orders",
            Some(json!({})),
            json!({"tls": {"mode": "Disabled"}}),
            "spec.tls.mode and spec.cluster.tls.mode can only be changed while spec.hibernated is true",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"replicas": 0}),
            "spec.replicas must be at least 1; to stop all servers and keep the cluster set spec.hibernated: true",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"config": {"lameDuckGracePeriod": "30s"}}),
            "spec.config.lameDuckGracePeriod must be shorter than spec.config.lameDuckDuration",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"config": {"lameDuckDuration": "20s"}}),
            "spec.config.lameDuckDuration must be at least 30s",
        ),
        (
            "NatsCluster",
            "orders",
            Some(json!({"cluster": {"name": "a"}})),
            json!({"cluster": {"name": "b"}}),
            "spec.cluster.name cannot be changed",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            listener(json!({"expose": {"loadBalancerClass": "a.example/b"}})),
            "spec.listeners[].expose.loadBalancerClass belongs to type LoadBalancer",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            listener(json!({"expose": {"externalTrafficPolicy": "Local"}})),
            "spec.listeners[].expose.externalTrafficPolicy belongs to types NodePort and LoadBalancer",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            listener(json!({"expose": {"perServer": "Enabled"}})),
            "spec.listeners[].expose.perServer needs type NodePort or LoadBalancer",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            listener(json!({"expose": {"type": "NodePort", "nodePort": 30400}})),
            "spec.listeners[].expose.nodePort belongs to type NodePort with perServer Enabled",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            listener(json!({"expose": {"advertise": "Template"}})),
            "spec.listeners[].expose.advertiseTemplate belongs to advertise Template, which needs it",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"tls": {"mode": "CertManager"}}),
            "spec.tls.certManager belongs to spec.tls.mode CertManager, which needs it",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"tls": {"secret": {"name": "mine"}}}),
            "spec.tls.secret belongs to spec.tls.mode Secret, which needs it",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"tls": {"selfSigned": {"validity": "1h", "renewBefore": "1h"}}}),
            "spec.tls.selfSigned.renewBefore must be shorter than validity",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"tls": {"selfSigned": {"authorityValidity": "1h"}}}),
            "spec.tls.selfSigned.validity must be shorter than authorityValidity",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            json!({"tls": {"mode": "CertManager", "certManager": {"issuerRef": {"name": "ca"}, "duration": "1h", "renewBefore": "2h"}}}),
            "spec.tls.certManager.renewBefore must be shorter than duration",
        ),
        (
            "NatsCluster",
            "orders",
            None,
            listener(json!({"tls": {"clientAuth": "Required"}})),
            "spec.listeners[].tls.clientAuth needs a tls.mode other than Disabled",
        ),
        (
            "NatsAccount",
            "Shop",
            None,
            account(json!({})),
            "metadata.name must be a DNS label that begins with a letter: it is the account's name on the servers",
        ),
        (
            "NatsAccount",
            "shop",
            Some(account(json!({}))),
            account(json!({"clusterRef": {"name": "other"}})),
            "spec.clusterRef cannot be changed; make a new object",
        ),
        (
            "NatsAccount",
            "shop",
            None,
            account(json!({"exports": [{"subject": "a", "responseType": "Stream"}]})),
            "responseType and responseThreshold are for exports of type Service",
        ),
        (
            "NatsUser",
            "-ann",
            None,
            user(json!({})),
            "metadata.name must be a DNS label of at most 50 characters that begins with a letter: user and Secret are named after it",
        ),
        (
            "NatsUser",
            "ann",
            Some(user(json!({}))),
            user(json!({"clusterRef": {"name": "other"}})),
            "spec.clusterRef cannot be changed; make a new object",
        ),
        (
            "NatsUser",
            "ann",
            Some(user(json!({}))),
            user(json!({"accountRef": {"name": "other"}})),
            "spec.accountRef cannot be changed; make a new object",
        ),
        (
            "NatsUser",
            "ann",
            None,
            user(json!({"credentials": {"rotateAfter": "1h", "overlap": "1h"}})),
            "spec.credentials.overlap must be shorter than spec.credentials.rotateAfter",
        ),
        (
            "NatsUser",
            "ann",
            Some(user(json!({"credentials": {"secretName": "a"}}))),
            user(json!({"credentials": {"secretName": "b"}})),
            "spec.credentials.secretName cannot be changed",
        ),
        (
            "NatsUser",
            "ann",
            None,
            user(json!({"credentials": {"rotateAfter": "30s", "overlap": "1s"}})),
            "spec.credentials.rotateAfter must be at least 1m",
        ),
    ]
}

fn with(mut object: Value, more: Value) -> Value {
    for (key, value) in more.as_object().cloned().unwrap_or_default() {
        object[key] = value;
    }
    object
}

#[test]
fn every_rule_tells_a_user_what_is_wrong() {
    let mut shown = BTreeSet::new();
    for (kind, name, old, new, message) in cases() {
        let old = old.map(|old| object(kind, name, &old));
        if let Some(old) = &old {
            assert_eq!(told(kind, old, None), Vec::<String>::new(), "{old}");
        }
        let found = told(kind, &object(kind, name, &new), old.as_ref());
        assert!(found.iter().any(|found| found == message), "{kind} {new}: {found:?}, not {message:?}");
        shown.insert((kind, message.to_owned()));
    }
    for kind in ["NatsCluster", "NatsAccount", "NatsUser"] {
        let mut rules = BTreeSet::new();
        messages(&schema_of(kind).expect("schema"), &mut rules);
        let of_kind: BTreeSet<String> =
            shown.iter().filter(|(shown, _)| *shown == kind).map(|(_, message)| message.clone()).collect();
        assert_eq!(of_kind, rules, "{kind}: each rule has a case above");
    }
}

#[test]
fn sound_objects_break_no_rule() {
    assert_eq!(told("NatsCluster", &object("NatsCluster", "orders", &json!({})), None), Vec::<String>::new());
    let hibernated = object("NatsCluster", "orders", &json!({"hibernated": true}));
    let without = object("NatsCluster", "orders", &json!({"hibernated": true, "tls": {"mode": "Disabled"}}));
    assert_eq!(told("NatsCluster", &without, Some(&hibernated)), Vec::<String>::new());
}
