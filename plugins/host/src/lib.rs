//! Runs Pierhead's plugins: the only crate that names wasmtime.
