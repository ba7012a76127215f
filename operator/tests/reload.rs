//! Which change reaches running servers, how the operator gets in, and what a refused one leaves behind.

mod support;

use nkeys::KeyPair;
use operator::build::config::{
    Fragment, Generation, Placement, Refused, Reload, Rendered, reload_by_request, render,
};
use operator::build::{self, SystemSecret};
use serde_json::{Value, json};
use support::cluster;

fn rendered_with(spec: Value, key: &str, fragments: &[Fragment]) -> Rendered {
    let cluster = cluster(spec);
    let placement = Placement { operator_key: Some(key.to_owned()), ..Placement::in_pod(&cluster) };
    render(&cluster, &placement, "secret", fragments).expect("renders")
}

fn rendered(spec: Value, key: &str) -> Rendered {
    rendered_with(spec, key, &[])
}

fn key() -> String {
    KeyPair::new_user().public_key()
}

#[test]
fn servers_know_the_operators_public_key_and_no_secret_of_it() {
    let pair = KeyPair::new_user();
    let file = rendered(json!({}), &pair.public_key());
    assert!(file.text.contains("$SYS") && file.text.contains(&pair.public_key()), "{}", file.text);
    assert!(!file.text.contains(&pair.seed().expect("seed")));
    assert!(Generation::after(None, file, Reload::Impossible).knows(&pair.public_key()));
}

#[test]
fn only_servers_that_know_the_operator_are_asked() {
    let (ours, other) = (key(), key());
    let next = rendered(json!({"config": {"maxPayload": "2Mi"}}), &ours);
    let before = |key: &str| Generation::after(None, rendered(json!({}), key), Reload::Impossible);
    assert_eq!(reload_by_request(Some(&before(&ours)), &next, &ours), Reload::Possible);
    assert_eq!(reload_by_request(Some(&before(&other)), &next, &ours), Reload::Impossible);
    assert_eq!(reload_by_request(None, &next, &ours), Reload::Impossible);
    let tls = rendered(json!({"listeners": [{"name": "client", "tls": {"mode": "Required"}}]}), &ours);
    assert_eq!(reload_by_request(Some(&before(&ours)), &tls, &ours), Reload::Impossible);
}

/// Somebody's own accounts decide alone who gets in: a user of ours would ask everybody for credentials.
#[test]
fn whoever_brings_accounts_of_their_own_gets_no_user_of_the_operator() {
    let ours = key();
    let merge = |merge: Value| rendered(json!({"config": {"merge": merge}}), &ours);
    for own in [
        json!({"accounts": {"A": {"users": [{"user": "a", "password": "b"}]}}}),
        json!({"Authorization": {"token": "t"}}),
        json!({"system_account": "A", "accounts": {"A": {}}}),
    ] {
        assert!(!merge(own.clone()).text.contains(&ours), "{own}");
    }
    assert!(merge(json!({"max_control_line": 8192})).text.contains(&ours));
    let text = "accounts { A { users [ {user: a, password: b} ] } }".to_owned();
    let fragment = Fragment { secret: "s".to_owned(), key: "k".to_owned(), text };
    assert!(!rendered_with(json!({}), &ours, &[fragment]).text.contains(&ours));
}

#[test]
fn what_a_running_server_takes_changes_no_pod_template() {
    let ours = key();
    let before = Generation::after(None, rendered(json!({}), &ours), Reload::Impossible);
    let after = |spec: Value| Generation::after(Some(&before), rendered(spec, &ours), Reload::Possible);
    assert_eq!(after(json!({"config": {"maxPayload": "2Mi"}})).restart_digest, before.restart_digest);
    let pending = after(json!({"config": {"maxPending": "32Mi"}}));
    assert_eq!(pending.restart_digest, pending.rendered.digest, "as nats-server, it takes that at its start");
}

#[test]
fn a_refused_file_is_taken_back_to_the_last_that_all_servers_had() {
    let ours = key();
    let mut first = Generation::after(None, rendered(json!({}), &ours), Reload::Impossible);
    first.prove(true);
    let changed = rendered(json!({"config": {"maxPayload": "2Mi"}}), &ours);
    let mut second = Generation::after(Some(&first), changed, Reload::Possible);
    second.prove(false);
    let refused = Refused {
        digest: second.rendered.digest.clone(),
        template: "t".to_owned(),
        problem: "orders-2: no such file".to_owned(),
    };
    let back = second.taken_back(refused.clone());
    assert_eq!(back.rendered.text, first.rendered.text);
    assert_eq!(back.restart_digest, first.restart_digest, "no server is restarted for it");
    // What is written remembers it, so an operator killed right after does not ask again.
    let secret = build::config_secret(&cluster(json!({})), &back);
    let annotations = secret.metadata.annotations.expect("annotations");
    let read: Refused = serde_json::from_str(&annotations["starling.dev/config-refused"]).expect("readable");
    assert_eq!(read, refused);
    // Another change is a new attempt.
    let next = Generation::after(Some(&back), rendered(json!({}), &ours), Reload::Possible);
    assert_eq!(next.refused, None);
}

#[test]
fn two_files_that_do_not_fit_into_one_secret_are_not_kept() {
    let ours = key();
    let long = Rendered { text: "#".repeat(500 * 1024), ..rendered(json!({}), &ours) };
    let mut generation = Generation::after(None, long, Reload::Impossible);
    generation.prove(true);
    assert_eq!(generation.proven, None);
}

#[test]
fn credentials_are_made_once_and_what_is_lost_is_made_anew() {
    let mut random = rand::rng();
    let first = SystemSecret::complete(None, &mut random);
    assert!(first.operator_key().is_some() && first.route_password.len() == 32);
    let cluster = cluster(json!({}));
    let mut secret = build::system_secret(&cluster, &first);
    assert_eq!(SystemSecret::complete(Some(&secret), &mut random), first);
    // As an operator wrote it that did not log in to servers.
    secret.data.as_mut().expect("data").remove("operator-seed");
    let later = SystemSecret::complete(Some(&secret), &mut random);
    assert_eq!(later.route_password, first.route_password);
    assert_ne!(later.operator_seed, first.operator_seed);
}
