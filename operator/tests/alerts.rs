//! The chart's alerts and dashboard: every question to Prometheus is whole.

use std::path::Path;

use serde_json::Value;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/starling-operator/files").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As far as it can be told without Prometheus: brackets and quotes close, and metrics are asked for.
fn is_sound(question: &str) -> bool {
    let mut open = Vec::new();
    let mut quoted = false;
    for letter in question.chars() {
        match letter {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => open.push(letter),
            ')' | ']' | '}' => {
                let wanted = [('(', ')'), ('[', ']'), ('{', '}')];
                if open.pop().is_none_or(|opened| !wanted.contains(&(opened, letter))) {
                    return false;
                }
            }
            _ => {}
        }
    }
    let asks = ["gnatsd_", "starling_operator_", "up{"].iter().any(|name| question.contains(name));
    open.is_empty() && !quoted && asks
}

fn check(question: &str) {
    assert!(is_sound(question), "{question}");
}

#[test]
fn alerts_are_prometheus_questions_with_words_for_people() {
    let rules = file("alerts.yaml");
    let questions: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(questions.len(), rules.matches("- alert: ").count());
    assert!(questions.len() >= 5);
    questions.into_iter().for_each(check);
    for part in ["severity: ", "summary: ", "description: ", "for: "] {
        assert_eq!(rules.matches(part).count(), rules.matches("- alert: ").count(), "{part}");
    }
}

#[test]
fn the_dashboard_is_json_whose_panels_ask_prometheus() {
    let dashboard: Value = serde_json::from_str(&file("dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() >= 8);
    for panel in panels {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{panel}");
        targets.iter().for_each(|target| check(target["expr"].as_str().expect("a question")));
    }
}

#[test]
fn a_wrong_question_is_found() {
    assert!(!is_sound("sum by (pod (gnatsd_x)") && !is_sound("sum(x)") && is_sound("sum(gnatsd_x)"));
}
