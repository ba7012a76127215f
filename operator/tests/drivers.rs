//! The local runner is a second driver of the controller's code, not a second implementation.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).expect("folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("source");
            // Tests may say what they like.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            found.push((path, code));
        }
    }
}

fn all() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

fn is_local(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "local")
}

/// Each decision is made in one place, which both drivers call.
#[test]
fn both_drivers_call_the_same_functions() {
    let sources = all();
    for (definition, call) in [
        ("pub fn validate(", "validate::validate("),
        ("pub fn render(\n", "config::render("),
        ("pub fn after(previous: Option<&Generation>", "Generation::after("),
        ("pub fn plan(", "rollout::plan("),
        ("pub fn renew(\n", "issue::renew("),
        ("pub fn status(", "status::status("),
        ("pub fn notes(", "status::notes("),
    ] {
        let defined = sources.iter().filter(|(_, code)| code.contains(definition)).count();
        assert_eq!(defined, 1, "{definition} must be defined once");
        let controller =
            sources.iter().any(|(path, code)| path.ends_with("src/controller.rs") && code.contains(call));
        let local = sources.iter().any(|(path, code)| is_local(path) && code.contains(call));
        assert!(
            controller && local,
            "{call} must be called by controller ({controller}) and local runner ({local})"
        );
    }
}

/// Accounts and users are decided about in one place, too.
#[test]
fn both_drivers_ask_the_same_tenancy() {
    let callers: Vec<_> = all()
        .into_iter()
        .filter(|(_, code)| code.contains("tenancy::decide("))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(callers.len(), 2, "{callers:?}");
    assert!(callers.iter().all(|path| path.ends_with("tenants.rs")), "{callers:?}");
}

/// What decides talks to nobody; what talks decides nothing.
#[test]
fn only_observe_apply_and_the_drivers_have_the_outside_world() {
    let pure =
        ["crd", "validate.rs", "build", "certificates", "tenancy", "rollout.rs", "status.rs", "reason.rs"];
    let outside =
        ["kube::Client", "tokio::", "std::fs", "std::net", "Instant::now", "Timestamp::now", "rand::rng"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (path, code) in all() {
        let place = path.strip_prefix(&root).expect("inside");
        let first = place.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let makes_keys = place.ends_with("certificates/issue.rs");
        if pure.contains(&first.as_str()) && !makes_keys {
            for word in outside {
                assert!(!code.contains(word), "{} uses {word}", place.display());
            }
        }
        if first == "local" {
            for word in ["Condition {", "Step::Replace {\n", "fn plan(", "lame_duck_duration:"] {
                assert!(!code.contains(word), "{} decides by itself: {word}", place.display());
            }
        }
    }
}
