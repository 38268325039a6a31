//! The one `unsafe`: turning bytes into code that runs.
//!
//! `Component::deserialize` runs what it is given with the rights of this process. It is sound for
//! bytes that `Component::serialize` of the same wasmtime wrote, unchanged; with an engine that
//! they do not fit, it says so.
//!
//! - The bytes were written by this program: they carry a MAC under a key that only this program
//!   has, over them and over the name that says what they were made of. [`Own::verified`] is
//!   called behind that check alone.
//! - They were not changed since: the check and this function see the same copy in memory. The
//!   file is not mapped, so that a later change of it changes nothing.
//! - They fit the engine: its compatibility hash is a part of the name, and wasmtime checks its
//!   version and settings once more.

use wasmtime::Engine;
use wasmtime::component::Component;

/// Bytes that this program wrote.
pub(super) struct Own<'a>(&'a [u8]);

impl<'a> Own<'a> {
    /// To be called with bytes whose MAC was verified, and with no others.
    pub(super) const fn verified(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

/// The component that these bytes are.
#[expect(unsafe_code, reason = "see the top of this file")]
pub(super) fn component(engine: &Engine, code: Own<'_>) -> wasmtime::Result<Component> {
    // SAFETY: `Own` holds what `Component::serialize` returned in this program or in another run
    // of it, verified by a MAC; see the top of this file.
    unsafe { Component::deserialize(engine, code.0) }
}
