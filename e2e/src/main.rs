//! placeholder while the library is checked
fn main() {}
