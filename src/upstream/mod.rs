//! The client of upstream registries.

pub mod settings;
