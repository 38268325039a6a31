//! Stand-in until the finder is merged.
use std::process::Command;
#[derive(Debug, thiserror::Error)]
#[error("no toolchain")]
pub struct ToolchainError;
#[derive(Debug)]
pub struct Toolchain;
impl Toolchain {
    pub fn find() -> Result<Self, ToolchainError> {
        Ok(Self)
    }
    pub fn apply(&self, command: &mut Command) {
        command.env("RUSTC", "/usr/bin/rustc").env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "/root/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    }
}
