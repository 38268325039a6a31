//! Pierhead.

pub mod app;
pub mod background;
pub mod cli;
pub mod clock;
pub mod config;
pub mod http;
pub mod oci;
pub mod pull;
pub mod scope;
pub mod secret;
pub mod single_flight;
pub mod upstream;
