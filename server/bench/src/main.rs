//! starling-bench
fn main() {}
