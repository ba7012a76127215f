//! Permissions against nats-server 2.15.2: random users were configured there, and what each could publish,
//! subscribe to and receive was recorded in `upstream.json`.

use accounts::*;
use serde::Deserialize;
use subject::{is_subset, matches, tokens};

#[derive(Deserialize)]
struct Recorded {
    permissions: Lists,
    publish: Vec<(String, bool)>,
    /// Filter, queue, allowed, and the subjects that arrived.
    subscribe: Vec<(String, String, bool, Option<Vec<String>>)>,
}

#[derive(Deserialize)]
struct Lists {
    publish: List,
    subscribe: List,
}

#[derive(Deserialize)]
struct List {
    allow: Option<Vec<String>>,
    #[serde(default)]
    deny: Vec<String>,
}

fn subjects(list: &List) -> Option<SubjectsSource> {
    Some(SubjectsSource { allow: list.allow.clone(), deny: list.deny.clone() })
}

/// Whether nats-server let the filter through only because it takes `>` for a token that `*` covers.
fn is_widened(filter: &str, allow: Option<&Vec<String>>) -> bool {
    let covers =
        |entry: &String| is_subset(filter.as_bytes(), entry.split(' ').next().unwrap_or_default().as_bytes());
    tokens(filter.as_bytes()).last() == Some(b">") && allow.is_some_and(|allow| !allow.iter().any(covers))
}

#[test]
fn random_users_may_do_what_they_may_there() {
    let recorded: Vec<Recorded> = serde_json::from_str(include_str!("upstream.json")).unwrap();
    let every: Vec<String> = ["a", "b", "c"]
        .iter()
        .flat_map(|first| {
            let pairs = ["a", "b", "c"].iter().map(move |second| format!("{first}.{second}"));
            std::iter::once((*first).to_owned()).chain(pairs)
        })
        .collect();
    let (mut published, mut subscribed, mut delivered, mut widened) = (0, 0, 0, 0);
    for user in recorded {
        let lists = &user.permissions;
        let (publish, subscribe) = (subjects(&lists.publish), subjects(&lists.subscribe));
        let source = PermissionsSource { publish, subscribe, responses: None };
        let permissions = Permissions::new(&source, "u").unwrap();
        for (subject, allowed) in &user.publish {
            assert_eq!(permissions.can_publish(subject.as_bytes()), *allowed, "{source:?} PUB {subject}");
            published += 1;
        }
        for (filter, queue, allowed, arrived) in &user.subscribe {
            let queue = (!queue.is_empty()).then_some(queue.as_bytes());
            let answer = permissions.can_subscribe(filter.as_bytes(), queue);
            if *allowed && answer == Subscribe::Denied && is_widened(filter, lists.subscribe.allow.as_ref()) {
                widened += 1;
                continue;
            }
            assert_eq!(answer != Subscribe::Denied, *allowed, "{source:?} SUB {filter} {queue:?}");
            subscribed += 1;
            let Some(arrived) = arrived else { continue };
            let deliver = |subject: &&String| {
                matches(filter.as_bytes(), subject.as_bytes())
                    && (answer == Subscribe::Allowed || permissions.can_deliver(subject.as_bytes(), queue))
            };
            let mut expected: Vec<&String> = every.iter().filter(deliver).collect();
            expected.sort();
            assert_eq!(expected, arrived.iter().collect::<Vec<_>>(), "{source:?} SUB {filter} {queue:?}");
            delivered += 1;
        }
    }
    assert!(
        published > 500 && subscribed > 800 && delivered > 100 && widened > 0,
        "{published} {subscribed} {delivered} {widened}"
    );
}
