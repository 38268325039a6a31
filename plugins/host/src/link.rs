//! Links a plugin to what its mount grants, and to nothing else.
//!
//! What is not granted is not there to be called: the plugin is not loaded. What is granted in
//! part (a bucket, an address, a repository) is checked in each call.

mod content;
mod crypto;
mod facts;
mod http;
mod kv;
mod log;
mod settings;

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use crate::error::LoadError;
use crate::inspect;
use crate::state::State;
use crate::wit::imports;

/// Interfaces whose functions may wait for somebody.
const WAITING: &[&str] = &["http", "content"];

/// Whether a plugin with these imports may have to wait in a call.
pub(crate) fn waits(names: &[String]) -> bool {
    names.iter().filter_map(|name| inspect::ours(name)).any(|name| WAITING.contains(&name))
}

/// A linker with exactly these imports. That each of them is granted was checked before.
pub(crate) fn linker(engine: &Engine, names: &[String]) -> Result<Linker<State>, LoadError> {
    type Own = HasSelf<State>;
    let mut linker = Linker::new(engine);
    for name in names.iter().filter_map(|name| inspect::ours(name)) {
        match name {
            "log" => imports::log::add_to_linker::<_, Own>(&mut linker, |state| state),
            "settings" => imports::settings::add_to_linker::<_, Own>(&mut linker, |state| state),
            "crypto" => imports::crypto::add_to_linker::<_, Own>(&mut linker, |state| state),
            "facts" => imports::facts::add_to_linker::<_, Own>(&mut linker, |state| state),
            "kv" => imports::kv::add_to_linker::<_, Own>(&mut linker, |state| state),
            "http" => imports::http::add_to_linker::<_, Own>(&mut linker, |state| state),
            "content" => imports::content::add_to_linker::<_, Own>(&mut linker, |state| state),
            // Types alone: there is nothing to link.
            _ => Ok(()),
        }
        .map_err(|error| LoadError::Mismatch(format!("{error:#}")))?;
    }
    Ok(linker)
}
