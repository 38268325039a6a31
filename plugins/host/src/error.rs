//! What can go wrong: when the host starts, when a plugin is loaded, when it is called.

use std::fmt;
use std::time::Duration;

use crate::inspect::MissingGrant;
use crate::wit::Failure;

/// The host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine refuses its settings.
    #[error("the plugin engine does not start: {0}")]
    Engine(String),
    /// The thread that counts time cannot be started.
    #[error("the plugin clock does not start: {0}")]
    Ticker(std::io::Error),
}

/// A plugin is not loaded. The text is for the operator, and says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is larger than any plugin may be.
    #[error("the plugin has {bytes} bytes; at most {max} are accepted")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The largest size in bytes.
        max: usize,
    },
    /// The file is no plugin.
    #[error("this is not a plugin: {0}")]
    NotAPlugin(String),
    /// It imports what no plugin can have.
    #[error("the plugin imports {import}, which Pierhead does not offer: {reason}")]
    UnknownImport {
        /// The import's name.
        import: String,
        /// Why, and what to do.
        reason: String,
    },
    /// It exports no hook.
    #[error("the plugin exports no hook; it has to export one of {hooks}", hooks = crate::Hook::ALL.map(crate::Hook::name).join(", "))]
    NoHook,
    /// Its hooks are of the interface, but nothing here calls them yet.
    #[error("this version of Pierhead does not run the plugin: it exports {hooks} and no other hook", hooks = names_of(.0))]
    NothingToRun(Vec<crate::Hook>),
    /// Its mount does not grant what it imports.
    #[error("{}", missing_text(.0))]
    MissingGrants(Vec<MissingGrant>),
    /// The mount's own description makes no sense.
    #[error("{0}")]
    Mount(String),
    /// It has more or larger parts than are compiled.
    #[error("the plugin is too large to be compiled: {0}")]
    TooMuch(String),
    /// It does not compile.
    #[error("the plugin does not compile: {0}")]
    Compile(String),
    /// Compiling takes too long.
    #[error("the plugin was not compiled within {}", crate::units::duration(*.0))]
    CompileTimeout(Duration),
    /// A type of it differs from the interface's.
    #[error("the plugin does not fit pierhead:plugin@0.1: {0}")]
    Mismatch(String),
    /// It refuses its settings.
    #[error("the plugin refuses its configuration: {}", .0.message)]
    Refused(Failure),
    /// It broke while it was configured.
    #[error("the plugin broke while it was configured: {0}")]
    Configure(Box<CallError>),
}

fn names_of(hooks: &[crate::Hook]) -> String {
    hooks.iter().map(|hook| hook.name()).collect::<Vec<_>>().join(", ")
}

fn missing_text(missing: &[MissingGrant]) -> String {
    let mut text = String::from("the plugin needs grants that its mount does not give; add");
    for grant in missing {
        text.push_str("\n  ");
        text.push_str(&grant.line);
    }
    text
}

/// A call did not give an answer that can be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// The guest broke.
    #[error("the plugin broke: {kind}")]
    Trap {
        /// How.
        kind: TrapKind,
        /// Where: the guest's calls with demangled names, innermost first; may be empty.
        backtrace: String,
    },
    /// It took too long.
    #[error("the plugin did not answer in time")]
    Deadline,
    /// It wanted more memory or table than its mount may have.
    #[error("the plugin wanted more memory than its mount may have")]
    Memory,
    /// It handed the host more bytes at once than its mount may.
    #[error("the plugin handed over more bytes than its mount may")]
    HostBytes,
    /// It says, in an orderly way, that it cannot answer.
    #[error("the plugin failed: {}", .0.message)]
    Failure(Failure),
    /// There is no place for the call, or no memory for any plugin.
    #[error("too many plugin calls at a time")]
    Busy,
    /// What it returned makes no sense or is too large.
    #[error("the plugin returned nonsense: {0}")]
    Lie(String),
}

/// How a guest broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrapKind {
    /// It gave up: an `unreachable`, as a panic or an abort leaves it.
    Unreachable,
    /// It read or wrote outside of its memory or a table.
    OutOfBounds,
    /// It divided by zero, or a number overflowed.
    Arithmetic,
    /// It called through a table what is not there or is of another type.
    IndirectCall,
    /// It called itself too deeply.
    StackOverflow,
    /// It used a handle that is not its own, or more of them than its mount may.
    Handle,
    /// It broke the rules of the component model, such as text that is not UTF-8.
    Protocol,
    /// The host made a mistake in a function that the guest called.
    Host,
}

impl TrapKind {
    /// A word for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::OutOfBounds => "out_of_bounds",
            Self::Arithmetic => "arithmetic",
            Self::IndirectCall => "indirect_call",
            Self::StackOverflow => "stack_overflow",
            Self::Handle => "handle",
            Self::Protocol => "protocol",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for TrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "it gave up (unreachable; a panic ends like this)",
            Self::OutOfBounds => "it left its memory or a table",
            Self::Arithmetic => "it divided by zero, or a number overflowed",
            Self::IndirectCall => "it called what is not there",
            Self::StackOverflow => "it called itself too deeply",
            Self::Handle => "it used a handle wrongly, or too many of them",
            Self::Protocol => "it broke the rules of the component model",
            Self::Host => "the host made a mistake",
        })
    }
}
