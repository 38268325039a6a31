//! What authors of plugins work with: `pierhead plugin new`, `build`, `test`, `inspect`, `diff`.
//!
//! Nothing here prints: the command line of Pierhead shows what these functions return.

pub mod answer;
pub mod build;
pub mod case;
pub mod descriptor;
pub mod diff;
pub mod inspect;
pub mod recording;
pub mod run;
pub mod template;
mod template_files;
pub mod toolchain;
mod value;
mod world;
