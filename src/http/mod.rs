//! The HTTP side.

pub mod settings;
