//! The chain as its operator sees it.

use std::sync::Arc;

use super::breaker::Circuit;
use super::guest::{Broke, Hook};
use super::{Mode, OnError};
use crate::clock::Timestamp;
use crate::hooks::answer::line;

/// The longest text about a trouble that is kept, in bytes.
const TROUBLE_BYTES_MAX: usize = 1024;

/// The latest thing that went wrong with a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Its kind, as metrics name it.
    pub kind: &'static str,
    /// What went wrong.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

impl Trouble {
    pub(super) fn new(broke: &Broke, at: Timestamp) -> Self {
        let message = line(&broke.to_string(), TROUBLE_BYTES_MAX);
        Self { kind: broke.kind(), message, at }
    }
}

/// One mount.
#[derive(Clone, Debug)]
pub struct MountView {
    /// Its name.
    pub name: Arc<str>,
    /// What it is asked.
    pub hooks: Vec<Hook>,
    /// What follows from its answers.
    pub mode: Mode,
    /// What follows when it breaks, where that was set.
    pub on_error: Option<OnError>,
    /// The plugin's digest.
    pub digest: Option<String>,
    /// The plugin's version.
    pub version: Option<String>,
    /// Whether there is a plugin; if not, `on_error` answers.
    pub loaded: bool,
    /// Why a newer version is not the one that serves.
    pub stale: Option<String>,
    /// Whether it is asked.
    pub circuit: Circuit,
    /// Whether the latest call broke.
    pub breaking: bool,
    /// What last went wrong.
    pub last: Option<Trouble>,
    /// Calls that were answered, since the start of the process.
    pub calls: u64,
    /// Calls that broke, since the start of the process.
    pub breaks: u64,
    /// Verdicts that were used again.
    pub decisions_at_hand: u64,
    /// Verdicts that had to be asked for.
    pub decisions_asked: u64,
}

impl MountView {
    /// One word for how it is: `ok`, `stale` (a newer version was refused), `breaking` (its latest
    /// call broke), `resting` (it broke too often) or `broken` (there is no plugin).
    pub fn health(&self) -> &'static str {
        match (self.loaded, self.circuit, &self.stale) {
            (false, ..) => "broken",
            (true, Circuit::Open | Circuit::HalfOpen, _) => "resting",
            (true, Circuit::Closed, _) if self.breaking => "breaking",
            (true, Circuit::Closed, Some(_)) => "stale",
            (true, Circuit::Closed, None) => "ok",
        }
    }
}
