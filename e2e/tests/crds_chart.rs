//! Who installs the definitions by helm gets the same ones as who applies crds/.

use std::collections::BTreeMap;
use std::path::Path;

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = entries.map(|entry| {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        (entry.file_name().to_string_lossy().into_owned(), text)
    });
    files.collect()
}

#[test]
fn the_chart_holds_the_definitions_as_generated() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (generated, chart) = (files(&root.join("crds")), files(&root.join("charts/starling-crds/files")));
    assert!(generated.keys().any(|name| name.ends_with(".yaml")), "crds/ is empty");
    let remedy = "copy crds/ to charts/starling-crds/files, or run `starling-e2e manifests`";
    assert!(generated.keys().eq(chart.keys()), "{:?} in the chart; {remedy}", chart.keys());
    for (name, text) in &generated {
        assert!(chart[name] == *text, "{name} differs from crds/{name}; {remedy}");
    }
}
