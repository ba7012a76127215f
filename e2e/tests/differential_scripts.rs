//! The protocol scripts can be read, and each case has the reference's answer recorded.

use std::path::Path;

use e2e::script::{Script, parse_transcripts};

#[test]
fn every_case_has_a_recorded_answer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("differential");
    let mut cases = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let script = Script::parse(&path.display().to_string(), &text).unwrap();
        let recorded = std::fs::read_to_string(path.with_extension("expected")).unwrap();
        let recorded = parse_transcripts(&recorded);
        for case in &script.cases {
            let answer = recorded.get(&case.name).map_or("", String::as_str);
            assert!(answer.contains("< "), "{}: {:?} has no answer", path.display(), case.name);
            cases += 1;
        }
        assert_eq!(recorded.len(), script.cases.len(), "{}: answers without a case", path.display());
    }
    assert!(cases >= 100, "only {cases} cases");
}
