//! Pierhead.

pub mod background;
pub mod clock;
pub mod oci;
pub mod scope;
pub mod secret;
pub mod single_flight;
pub mod store;
