//! starling-operator
fn main() {}
