//! pgherd
fn main() {}
