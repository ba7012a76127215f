//! The index of filters against the one-line definition of matching, over random histories.

use proptest::prelude::*;
use std::collections::BTreeMap;
use subject::{FilterId, Trie, collide, is_subset, is_valid, matches};

fn token() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("a"), 3 => Just("b"), 2 => Just("long-token-of-more-than-sixteen-bytes"), 1 => Just("*x")]
}

fn literal() -> impl Strategy<Value = String> {
    prop::collection::vec(token(), 1..6).prop_map(|tokens| tokens.join("."))
}

fn filter() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => token(), 2 => Just("*")];
    (prop::collection::vec(part, 0..6), any::<bool>()).prop_map(|(mut tokens, tail)| {
        if tail || tokens.is_empty() {
            tokens.push(">");
        }
        tokens.join(".")
    })
}

#[derive(Clone, Debug)]
enum Step {
    Insert(String),
    Remove(usize),
    Rebuild,
    Match(String),
    MatchFilter(String),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![filter(), literal()].prop_map(Step::Insert),
        3 => any::<usize>().prop_map(Step::Remove),
        1 => Just(Step::Rebuild),
        3 => literal().prop_map(Step::Match),
        1 => filter().prop_map(Step::MatchFilter),
    ]
}

/// The ids the model expects, in order.
fn expected(model: &BTreeMap<String, FilterId>, keep: impl Fn(&str) -> bool) -> Vec<FilterId> {
    let mut ids: Vec<FilterId> = model.iter().filter(|(text, _)| keep(text)).map(|(_, id)| *id).collect();
    ids.sort();
    ids
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_history_matches_as_a_plain_list_would(seed: u64, steps in prop::collection::vec(step(), 1..120)) {
        let mut trie = Trie::new(seed);
        let mut model: BTreeMap<String, FilterId> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(text) => {
                    let (id, new) = trie.insert(text.as_bytes());
                    prop_assert_eq!(new, !model.contains_key(&text));
                    if !new {
                        prop_assert_eq!(model[&text], id);
                    }
                    prop_assert!(!model.iter().any(|(other, used)| *used == id && *other != text));
                    model.insert(text, id);
                }
                Step::Remove(at) if !model.is_empty() => {
                    let text = model.keys().nth(at % model.len()).cloned().unwrap();
                    trie.remove(model.remove(&text).unwrap());
                    prop_assert_eq!(trie.find(text.as_bytes()), None);
                }
                Step::Remove(_) => {}
                Step::Rebuild => trie = trie.rebuilt(),
                Step::Match(subject) => {
                    let mut out = vec![];
                    trie.matches(subject.as_bytes(), trie.hash(subject.as_bytes()), &mut out);
                    out.sort();
                    prop_assert_eq!(trie.has_match(subject.as_bytes()), !out.is_empty());
                    prop_assert_eq!(out, expected(&model, |text| matches(text.as_bytes(), subject.as_bytes())));
                }
                Step::MatchFilter(filter) => {
                    let mut out = vec![];
                    trie.matches_filter(filter.as_bytes(), &mut out);
                    out.sort();
                    prop_assert_eq!(out, expected(&model, |text| collide(text.as_bytes(), filter.as_bytes())));
                }
            }
            prop_assert_eq!(trie.len(), model.len());
        }
        for (text, id) in &model {
            let mut out = vec![];
            trie.text(*id, &mut out);
            prop_assert_eq!(out, text.as_bytes());
            prop_assert_eq!(trie.find(text.as_bytes()), Some(*id));
        }
        prop_assert_eq!(trie.iter().collect::<Vec<_>>(), expected(&model, |_| true));
        for id in model.values() {
            trie.remove(*id);
        }
        prop_assert_eq!(trie.memory().nodes + trie.memory().text_bytes + trie.len(), 0);
    }

    #[test]
    fn subset_and_collision_agree_with_matching(a in filter(), b in filter(), subject in literal()) {
        prop_assert!(is_valid(a.as_bytes()));
        let (in_a, in_b) = (matches(a.as_bytes(), subject.as_bytes()), matches(b.as_bytes(), subject.as_bytes()));
        if is_subset(a.as_bytes(), b.as_bytes()) {
            prop_assert!(!in_a || in_b);
            prop_assert!(collide(a.as_bytes(), b.as_bytes()));
        }
        if in_a && in_b {
            prop_assert!(collide(a.as_bytes(), b.as_bytes()));
        }
        prop_assert_eq!(matches(a.as_bytes(), subject.as_bytes()), is_subset(subject.as_bytes(), a.as_bytes()));
    }

    #[test]
    fn no_bytes_make_it_panic(filters in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20), subject in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut trie = Trie::new(3);
        let ids: Vec<FilterId> = filters.iter().map(|filter| trie.insert(filter).0).collect();
        let mut out = vec![];
        trie.matches(&subject, trie.hash(&subject), &mut out);
        trie.matches_filter(&subject, &mut out);
        for id in ids {
            trie.remove(id);
        }
        prop_assert!(trie.is_empty());
    }
}
