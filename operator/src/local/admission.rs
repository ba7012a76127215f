//! What the API server would say to an object, without an API server.
//!
//! Owns the check of a value against the structural schema and the CEL rules of the CRD, unknown fields
//! included (as `kubectl apply` has them refused). Knows no rule of its own: all come from the schema.

use kube::core::cel::Validator;
use serde_json::Value;

use super::yaml::Key;

/// A rule that an object breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where.
    pub path: Vec<Key>,
    /// What is wrong.
    pub message: String,
}

/// Checks an object against the schema of its CRD; an empty list means that it is fine.
pub fn check(schema: &Value, object: &Value) -> Vec<Violation> {
    let mut violations = Vec::new();
    // `metadata` is not in a CRD's schema in full; the API server knows it apart.
    for (name, part) in object.as_object().into_iter().flatten() {
        let path = vec![Key::Field(name.clone())];
        match schema["properties"].get(name) {
            _ if ["apiVersion", "kind", "metadata", "status"].contains(&name.as_str()) => {}
            Some(inner) => structure(inner, part, path, &mut violations),
            None => violations.push(unknown_field(schema, path)),
        }
    }
    if violations.is_empty()
        && let Err(errors) = Validator::new().validate(schema, object, None)
    {
        violations.extend(
            errors.iter().map(|error| Violation {
                path: parse_path(&error.field_path),
                message: error.message.clone(),
            }),
        );
    }
    violations
}

fn structure(schema: &Value, value: &Value, path: Vec<Key>, violations: &mut Vec<Violation>) {
    let mut complain = |message: String| violations.push(Violation { path: path.clone(), message });
    if value.is_null() {
        // The API server drops nulls of fields that are not nullable, and then defaults them.
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        if !(value.is_i64() || value.is_u64() || value.is_string()) {
            complain("must be an integer or a string".to_owned());
        }
        return;
    }
    if let Some(wanted) = schema["type"].as_str()
        && !has_type(value, wanted)
    {
        return complain(format!("must be of type {wanted}, not {}", type_name(value)));
    }
    if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
        let allowed: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
        complain(format!("{value} is not one of {}", allowed.join(", ")));
    }
    if let Some(bound) = broken_bound(schema, value) {
        complain(bound);
    }
    match value {
        Value::Object(map) => {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !map.contains_key(name) {
                    complain(format!("{name} is missing"));
                }
            }
            for (name, inner) in map {
                let mut path = path.clone();
                path.push(Key::Field(name.clone()));
                if let Some(known) = schema["properties"].get(name) {
                    structure(known, inner, path, violations);
                } else if let Some(any) = schema.get("additionalProperties").filter(|any| any.is_object()) {
                    structure(any, inner, path, violations);
                } else if schema["x-kubernetes-preserve-unknown-fields"] != true {
                    violations.push(unknown_field(schema, path));
                }
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                let mut path = path.clone();
                path.push(Key::Index(index));
                structure(&schema["items"], inner, path, violations);
            }
            if let Some(message) = duplicate_key(schema, items) {
                violations.push(Violation { path, message });
            }
        }
        _ => {}
    }
}

fn has_type(value: &Value, wanted: &str) -> bool {
    match wanted {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn broken_bound(schema: &Value, value: &Value) -> Option<String> {
    if let Some(number) = value.as_f64() {
        if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
            return Some(format!("must be at least {least}, not {value}"));
        }
        if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
            return Some(format!("must be at most {most}, not {value}"));
        }
    }
    if let Some(string) = value.as_str() {
        let length = string.chars().count() as u64;
        if schema["minLength"].as_u64().is_some_and(|least| length < least) {
            return Some("must not be empty".to_owned());
        }
        if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
            return Some(format!("must be at most {most} characters long"));
        }
        if let Some(pattern) = schema["pattern"].as_str()
            && regex::Regex::new(pattern).is_ok_and(|regex| !regex.is_match(string))
        {
            return Some(format!("{value} does not match {pattern}"));
        }
    }
    if let Some(items) = value.as_array() {
        let length = items.len() as u64;
        if let Some(least) = schema["minItems"].as_u64().filter(|least| length < *least) {
            return Some(format!("must have at least {least} items"));
        }
        if let Some(most) = schema["maxItems"].as_u64().filter(|most| length > *most) {
            return Some(format!("must have at most {most} items"));
        }
    }
    None
}

fn duplicate_key(schema: &Value, items: &[Value]) -> Option<String> {
    let keys = schema["x-kubernetes-list-map-keys"].as_array()?;
    let key = |item: &Value| -> Vec<Value> {
        keys.iter().filter_map(Value::as_str).map(|name| item[name].clone()).collect()
    };
    let twice =
        items.iter().enumerate().find(|(index, item)| items[..*index].iter().any(|i| key(i) == key(item)))?;
    Some(format!("has two items with the key {}", Value::Array(key(twice.1))))
}

fn unknown_field(schema: &Value, path: Vec<Key>) -> Violation {
    let name = match path.last() {
        Some(Key::Field(name)) => name.clone(),
        _ => String::new(),
    };
    let known = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name);
    let near =
        known.map(|known| (distance(known, &name), known)).min().filter(|(distance, _)| *distance <= 2);
    let hint = near.map(|(_, known)| format!("; did you mean {known:?}?")).unwrap_or_default();
    Violation { path, message: format!("unknown field {name:?}{hint}") }
}

/// Levenshtein distance, ignoring case.
fn distance(left: &str, right: &str) -> usize {
    let (left, right) = (left.to_ascii_lowercase(), right.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut corner = i;
        let mut before = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(right.chars()) {
            let above = *cell;
            before = (above + 1).min(before + 1).min(corner + usize::from(a != b));
            corner = above;
            *cell = before;
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or_default()
}

/// Reads `spec.listeners[0].port`.
fn parse_path(path: &str) -> Vec<Key> {
    let mut keys = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, rest) = part.split_once('[').unwrap_or((part, ""));
        keys.push(Key::Field(name.to_owned()));
        keys.extend(
            rest.split('[').filter_map(|index| index.trim_end_matches(']').parse().ok()).map(Key::Index),
        );
    }
    keys
}

/// Writes `spec.listeners[0].port`.
pub fn show_path(path: &[Key]) -> String {
    let mut text = String::new();
    for key in path {
        match key {
            Key::Field(name) if text.is_empty() => text.push_str(name),
            Key::Field(name) => {
                text.push('.');
                text.push_str(name);
            }
            Key::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What a user reads for each kind of mistake; the API server's wording differs, its verdict must not.
    #[test]
    fn every_rule_of_the_crd_refuses_what_it_should() {
        let schema = crate::crd::crd_schema();
        let long_name = "a".repeat(51);
        let cases = [
            (json!({"replicas": 0}), "orders", "spec.replicas must be at least 1; to stop all servers"),
            (json!({"replicas": 100}), "orders", "must be at most 99, not 100"),
            (json!({"replicas": "3"}), "orders", "must be of type integer, not string"),
            (json!({"replcas": 3}), "orders", "unknown field \"replcas\"; did you mean \"replicas\"?"),
            (json!({"version": "1", "image": "x"}), "orders", "at most one of spec.version and spec.image"),
            (json!({"config": {"maxPayload": "1 MB"}}), "orders", "does not match"),
            (
                json!({"config": {"lameDuckDuration": "5s"}}),
                "orders",
                "lameDuckDuration must be at least 30s",
            ),
            (json!({"config": {"lameDuckGracePeriod": "30s"}}), "orders", "must be shorter than"),
            (json!({"config": {"logging": {"level": "Loud"}}}), "orders", "is not one of Info, Debug, Trace"),
            (json!({"cluster": {"port": 4222}}), "orders", "must differ"),
            (json!({"cluster": {"port": 70000}}), "orders", "must be at most 65535"),
            (json!({"cluster": {"name": "a b"}}), "orders", "does not match"),
            (json!({"listeners": []}), "orders", "at least 1 items"),
            (json!({"listeners": [{"port": 1}]}), "orders", "name is missing"),
            (json!({"listeners": [{"name": "a"}, {"name": "a", "port": 1}]}), "orders", "at most 1 items"),
            (json!({"tls": {"mode": "Secret"}}), "orders", "spec.tls.secret belongs to spec.tls.mode Secret"),
            (json!({"tls": {"secret": {"name": "x"}}}), "orders", "belongs to spec.tls.mode Secret"),
            (json!({"tls": {"mode": "CertManager"}}), "orders", "spec.tls.certManager belongs to"),
            (json!({"tls": {"selfSigned": {"validity": "1h"}}}), "orders", "renewBefore must be shorter"),
            (
                json!({"tls": {"selfSigned": {"authorityValidity": "2160h"}}}),
                "orders",
                "validity must be shorter than authorityValidity",
            ),
            (json!({"tls": {"extraNames": ["a b"]}}), "orders", "does not match"),
            (
                json!({"tls": {"mode": "Disabled"}, "listeners": [{"name": "a", "tls": {"mode": "Required"}}]}),
                "orders",
                "spec.tls.mode must not be Disabled",
            ),
            (
                json!({"listeners": [{"name": "a", "tls": {"clientAuth": "Required"}}]}),
                "orders",
                "clientAuth needs a tls.mode",
            ),
            (
                json!({"listeners": [{"name": "a", "expose": {"loadBalancerClass": "x"}}]}),
                "orders",
                "loadBalancerClass belongs to type LoadBalancer",
            ),
            (
                json!({"listeners": [{"name": "a", "expose": {"externalTrafficPolicy": "Local"}}]}),
                "orders",
                "externalTrafficPolicy belongs to types NodePort and LoadBalancer",
            ),
            (json!({"networkPolicy": {"mode": "Maybe"}}), "orders", "is not one of Enabled, Disabled"),
            (json!({}), "Orders", "metadata.name must be a DNS label"),
            (json!({}), long_name.as_str(), "at most 50 characters"),
        ];
        for (spec, name, expected) in cases {
            let object = json!({"metadata": {"name": name}, "spec": spec});
            let violations = check(&schema, &object);
            let text = violations.iter().map(|v| v.message.clone()).collect::<Vec<_>>().join("\n");
            assert!(text.contains(expected), "{object} gave {text:?}, not {expected:?}");
        }
    }

    #[test]
    fn good_objects_pass() {
        let schema = crate::crd::crd_schema();
        for spec in [
            json!({}),
            json!({"replicas": 1, "config": {"merge": {"anything": {"goes": [1, "x"]}}}}),
            json!({"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}, "podTemplate": {"spec": {"x": 1}}}),
            json!({"listeners": [{"name": "nats", "port": 14222, "expose": {"annotations": {"a": "b"}}}]}),
        ] {
            let object = json!({"metadata": {"name": "orders"}, "spec": spec});
            assert_eq!(check(&schema, &object), [], "{object}");
        }
    }

    #[test]
    fn how_servers_trust_each_other_changes_only_in_hibernation() {
        let schema = crate::crd::crd_schema();
        let object = |mode: &str, hibernated: bool| json!({"metadata": {"name": "orders"}, "spec": {"tls": {"mode": mode}, "hibernated": hibernated}});
        let verdict = |new: &Value, old: &Value| Validator::new().validate(&schema, new, Some(old));
        let refused = verdict(&object("Disabled", false), &object("SelfSigned", false)).expect_err("refused");
        assert!(refused.to_string().contains("only be changed while spec.hibernated is true"), "{refused}");
        assert!(verdict(&object("Disabled", true), &object("SelfSigned", true)).is_ok());
        assert!(verdict(&object("Disabled", false), &object("Disabled", true)).is_ok());
    }

    #[test]
    fn what_cannot_be_changed_is_refused_on_update() {
        let schema = crate::crd::crd_schema();
        let object =
            |name: &str| json!({"metadata": {"name": "orders"}, "spec": {"cluster": {"name": name}}});
        let verdict = Validator::new().validate(&schema, &object("b"), Some(&object("a")));
        assert!(verdict.expect_err("refused").to_string().contains("spec.cluster.name cannot be changed"));
        assert!(Validator::new().validate(&schema, &object("a"), Some(&object("a"))).is_ok());
    }
}
