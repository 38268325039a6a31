//! Write plugins for Pierhead in Rust.
