//! The pull-through engine.

pub mod settings;
