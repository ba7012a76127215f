//! starling-e2e
fn main() {}
