//! The questions to one plugin, in types of our own, and what it may answer.
//!
//! The chain is written, and tested, against [`Guest`]; that most guests are WebAssembly is known
//! to `hooks/wasm.rs` alone. Whatever a guest returns is as untrusted as a client's request: it is
//! made fit in `check.rs` before anything follows from it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::hooks::{AdmissionRequest, Context, Identity, Presented, Target, WantedScope};
use crate::oci::ErrorCode;

/// A question that a plugin can answer, in the words of the WIT package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Who is it?
    Authenticator,
    /// What may they do?
    Authorizer,
    /// What does the name mean?
    Resolver,
    /// Is the request acceptable?
    RequestPolicy,
    /// Is the manifest acceptable?
    ManifestPolicy,
}

/// Why a text names no hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hook is authenticator, authorizer, resolver, request-policy or manifest-policy")]
pub struct HookError;

impl Hook {
    /// Every hook, in the order in which a request meets them.
    pub const ALL: [Self; 5] = [
        Self::Authenticator,
        Self::Authorizer,
        Self::Resolver,
        Self::RequestPolicy,
        Self::ManifestPolicy,
    ];

    /// Its name in the WIT package, the configuration and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authenticator => "authenticator",
            Self::Authorizer => "authorizer",
            Self::Resolver => "resolver",
            Self::RequestPolicy => "request-policy",
            Self::ManifestPolicy => "manifest-policy",
        }
    }

    /// Whether its answers are verdicts.
    pub const fn is_policy(self) -> bool {
        matches!(self, Self::RequestPolicy | Self::ManifestPolicy)
    }

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Authenticator => 0,
            Self::Authorizer => 1,
            Self::Resolver => 2,
            Self::RequestPolicy => 3,
            Self::ManifestPolicy => 4,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Hook {
    type Err = HookError;

    fn from_str(text: &str) -> Result<Self, HookError> {
        Self::ALL.into_iter().find(|hook| hook.as_str() == text).ok_or(HookError)
    }
}

/// What is about to happen to a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It is about to be kept.
    Admit,
    /// It is about to be served.
    Serve,
}

/// One call: for whom, when, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The request.
    pub context: &'a Context,
    /// When the call is made. It stands still for the guest.
    pub now: Timestamp,
    /// How long it may take.
    pub deadline: Duration,
}

/// What an authenticator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authenticated {
    /// Not for this plugin.
    Abstain,
    /// It is known who it is.
    Known(Identity),
    /// The credentials are wrong, and why, for the client.
    Rejected(String),
}

/// What a policy decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing to say.
    Abstain,
    /// Let it through, whatever comes behind.
    Allow,
    /// Refuse it.
    Deny {
        /// The error that the client sees.
        code: ErrorCode,
        /// For the person who ran the pull.
        message: String,
        /// For logs alone.
        detail: Option<String>,
    },
}

/// What a policy wants done besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obligation {
    /// Tell the client.
    Warn(String),
    /// Note a key and a value in the access log.
    Audit(String, String),
    /// Count it under this label.
    Count(String),
    /// Have the image scanned by the mount of this name.
    Scan(String),
}

/// What a verdict depended on: a set of the inputs of a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DependsOn(u8);

impl DependsOn {
    /// Nothing: the verdict is the same for everybody and everything.
    pub const NOTHING: Self = Self(0);
    /// Who asks, with groups, claims and certificate.
    pub const IDENTITY: Self = Self(1);
    /// The client: its address, what it calls itself, and whether its connection is encrypted.
    pub const CLIENT_ADDRESS: Self = Self(1 << 1);
    /// The upstream and the repository.
    pub const REPOSITORY: Self = Self(1 << 2);
    /// The tag.
    pub const TAG: Self = Self(1 << 3);
    /// The digest.
    pub const DIGEST: Self = Self(1 << 4);
    /// The action and the kind of object.
    pub const ACTION: Self = Self(1 << 5);
    /// The time, to the minute.
    pub const TIME: Self = Self(1 << 6);
    /// Facts about the digest.
    pub const FACTS: Self = Self(1 << 7);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    pub(super) const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

/// Leave to use a verdict again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// For how long.
    pub ttl: Duration,
    /// For questions that are equal in this.
    pub on: DependsOn,
}

/// What a policy answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What follows.
    pub decision: Decision,
    /// What is to be done besides.
    pub obligations: Vec<Obligation>,
    /// Whether the answer may be used again.
    pub reuse: Option<Reuse>,
}

impl Said {
    /// A decision and nothing else.
    pub const fn only(decision: Decision) -> Self {
        Self { decision, obligations: Vec::new(), reuse: None }
    }
}

/// The name that a resolver wants used. Nothing of it was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The upstream's name.
    pub upstream: String,
    /// The repository there.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest.
    pub digest: Option<String>,
}

/// Why there is no answer. Each is counted apart, and the mount's `on_error` answers them all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broke {
    /// The plugin could not be fetched or read.
    #[error("it could not be fetched: {0}")]
    Fetch(String),
    /// Its signature is missing or wrong.
    #[error("its signature was not accepted: {0}")]
    Signature(String),
    /// It does not fit its mount: settings, grants, limits, hooks, or it is no plugin.
    #[error("it could not be set up: {0}")]
    Configuration(String),
    /// It trapped.
    #[error("it trapped: {kind}")]
    Trap {
        /// What kind of trap, for the metric.
        kind: &'static str,
        /// Where, for the log.
        backtrace: String,
    },
    /// It took too long.
    #[error("it took longer than its deadline")]
    Deadline,
    /// It wanted more memory, or more bytes from the host, than its mount allows.
    #[error("it wanted more memory than its mount allows")]
    Memory,
    /// It said itself that it failed.
    #[error("it failed: {message}")]
    Failure {
        /// Why, for the operator.
        message: String,
        /// Whether it is something that it needs which failed, and not itself.
        unavailable: bool,
    },
    /// There was no room for the call.
    #[error("there was no room for the call")]
    Busy,
    /// What it returned makes no sense.
    #[error("what it returned makes no sense: {0}")]
    Lie(String),
    /// It broke too often of late, and is not asked.
    #[error("it broke too often and is left alone for a while")]
    Resting,
}

impl Broke {
    /// Every kind, as metrics name it.
    pub const KINDS: [&'static str; 10] = [
        "fetch",
        "signature",
        "configuration",
        "trap",
        "deadline",
        "memory",
        "failure",
        "busy",
        "lie",
        "resting",
    ];

    /// Its name in metrics and in what clients are told.
    pub const fn kind(&self) -> &'static str {
        Self::KINDS[self.index()]
    }

    pub(super) const fn index(&self) -> usize {
        match self {
            Self::Fetch(_) => 0,
            Self::Signature(_) => 1,
            Self::Configuration(_) => 2,
            Self::Trap { .. } => 3,
            Self::Deadline => 4,
            Self::Memory => 5,
            Self::Failure { .. } => 6,
            Self::Busy => 7,
            Self::Lie(_) => 8,
            Self::Resting => 9,
        }
    }

    /// Whether the question may be to blame: it cost more than a call may take, or ended it.
    pub(super) const fn is_overtaxed(&self) -> bool {
        matches!(self, Self::Trap { .. } | Self::Deadline | Self::Memory)
    }

    /// Whether it says something about the plugin's health: a lack of room does not, and neither
    /// does the failure of what it needs. Those who do not need that are answered meanwhile.
    pub(super) const fn counts_against_it(&self) -> bool {
        !matches!(self, Self::Busy | Self::Resting | Self::Failure { unavailable: true, .. })
    }
}

/// What a call came to, and what it took.
#[derive(Clone, Debug)]
pub struct Called<T> {
    /// The answer.
    pub result: Result<T, Broke>,
    /// The most memory that the guest had, in bytes; zero where nobody counts.
    pub memory_peak_bytes: u64,
    /// Lines of its log that were dropped.
    pub log_dropped: u64,
}

impl<T> From<Result<T, Broke>> for Called<T> {
    fn from(result: Result<T, Broke>) -> Self {
        Self { result, memory_peak_bytes: 0, log_dropped: 0 }
    }
}

/// A plugin. Only hooks that it was mounted for are asked; the others answer nothing.
///
/// All futures are cancel-safe: dropping one ends the call.
#[async_trait]
pub trait Guest: fmt::Debug + Send + Sync + 'static {
    /// Who presented this?
    async fn authenticate(&self, call: Call<'_>, presented: &Presented) -> Called<Authenticated>;

    /// The part of `wanted` that is granted.
    async fn authorize(&self, call: Call<'_>, wanted: &[WantedScope]) -> Called<Vec<WantedScope>>;

    /// Another name to use, or none.
    async fn resolve(&self, call: Call<'_>, target: &Target) -> Called<Option<Proposed>>;

    /// Is the request acceptable?
    async fn request(&self, call: Call<'_>, target: &Target) -> Called<Said>;

    /// Is the manifest acceptable?
    async fn manifest(
        &self,
        call: Call<'_>,
        stage: Stage,
        manifest: &AdmissionRequest,
    ) -> Called<Said>;
}
