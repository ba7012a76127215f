//! starling-server
fn main() {}
