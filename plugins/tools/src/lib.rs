//! What authors of plugins work with: `pierhead plugin new`, `build`, `test`, `inspect`, `diff`.

pub mod toolchain;
