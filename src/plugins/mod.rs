//! The life of plugins: where they come from, when they are loaded, and what serves meanwhile.
//!
//! 1. [`source`] says where a plugin comes from; `file`, `artifact` and the bundled ones get its
//!    bytes; [`verify`] says whether who has to sign it has done so.
//! 2. `load` has it compiled, off the way of requests, and falls back on the version that serves,
//!    or at the start on the last good one that `kept` has.
//! 3. The whole chain is then put in the place of the old one at once.
//! 4. `watch` looks at files and does this again when they change.

mod artifact;
mod file;
mod kept;
mod load;
pub mod settings;
pub mod source;
#[cfg(test)]
mod tests;
pub mod verify;
mod watch;

pub use load::{Plugins, PluginsParts};
