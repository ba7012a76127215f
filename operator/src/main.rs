//! starling-operator
fn main() {
    for (file, text) in operator::crd::crd_documents().unwrap_or_default() {
        std::fs::write(format!("{}/../crds/{file}", env!("CARGO_MANIFEST_DIR")), text).ok();
    }
}
