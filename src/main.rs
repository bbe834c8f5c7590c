//! im-dispatcher
fn main() {}
