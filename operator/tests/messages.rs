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

/// An object that breaks a rule. `rules.json` is also applied to a real API server (`starling-e2e run everyday`).
#[derive(serde::Deserialize)]
struct Case {
    kind: String,
    name: String,
    /// What was there before, for rules about changes.
    old: Option<Value>,
    new: Value,
    /// What the user is told.
    message: String,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("rules.json")).expect("cases")
}

#[test]
fn every_rule_tells_a_user_what_is_wrong() {
    let mut shown = BTreeSet::new();
    for Case { kind, name, old, new, message } in cases() {
        let old = old.map(|old| object(&kind, &name, &old));
        if let Some(old) = &old {
            assert_eq!(told(&kind, old, None), Vec::<String>::new(), "{old}");
        }
        let found = told(&kind, &object(&kind, &name, &new), old.as_ref());
        assert!(found.contains(&message), "{kind} {new}: {found:?}, not {message:?}");
        shown.insert((kind, message));
    }
    for kind in ["NatsCluster", "NatsAccount", "NatsUser"] {
        let mut rules = BTreeSet::new();
        messages(&schema_of(kind).expect("schema"), &mut rules);
        let of_kind: BTreeSet<String> =
            shown.iter().filter(|(shown, _)| shown == kind).map(|(_, message)| message.clone()).collect();
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
