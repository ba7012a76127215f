//! The index of filters agrees with the definition of matching after any history, on any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use subject::{FilterId, Trie, collide, is_valid, matches};

fuzz_target!(|data: &[u8]| {
    let mut trie = Trie::new(data.len() as u64);
    let mut model: BTreeMap<&[u8], FilterId> = BTreeMap::new();
    // one step a line; its first byte says what to do
    for line in data.split(|byte| *byte == b'\n') {
        let Some((step, text)) = line.split_first() else { continue };
        match step {
            b'+' => {
                let (id, new) = trie.insert(text);
                assert_eq!(new, model.insert(text, id).is_none());
            }
            b'-' => {
                if let Some(id) = model.remove(text) {
                    trie.remove(id);
                }
                assert_eq!(trie.find(text), None);
            }
            b'?' => {
                let mut found = vec![];
                trie.matches(text, trie.hash(text), &mut found);
                assert_eq!(trie.has_match(text), !found.is_empty());
                compare(found, &model, |filter| matches(filter, text));
            }
            b'&' if is_valid(text) => {
                let mut found = vec![];
                trie.matches_filter(text, &mut found);
                compare(found, &model, |filter| collide(filter, text));
            }
            b'!' => trie = trie.rebuilt(),
            _ => {}
        }
        assert_eq!(trie.len(), model.len());
    }
    for (text, id) in &model {
        let mut out = vec![];
        trie.text(*id, &mut out);
        assert_eq!(out, *text);
        trie.remove(*id);
    }
    assert!(trie.is_empty());
    assert_eq!(trie.memory().text_bytes, 0);
});

/// Invalid filters are refused by those who ask for them; in the index they must only do no harm.
fn compare(mut found: Vec<FilterId>, model: &BTreeMap<&[u8], FilterId>, wanted: impl Fn(&[u8]) -> bool) {
    let valid = || model.iter().filter(|(filter, _)| is_valid(filter));
    found.retain(|id| valid().any(|(_, other)| other == id));
    found.sort();
    let mut wanted: Vec<FilterId> = valid().filter(|(filter, _)| wanted(filter)).map(|(_, id)| *id).collect();
    wanted.sort();
    assert_eq!(found, wanted);
}
