//! What an operator can say about tokens.

use std::time::Duration;

/// The shortest life of a token: docker takes a shorter one for this long.
pub const TOKEN_TTL_MIN: Duration = Duration::from_secs(60);

/// The longest life of a token: nobody can take one back.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(3600);

/// How tokens are made.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// How long one is good for.
    pub ttl: Duration,
    /// Whom it is for: what challenges call this registry.
    pub service: String,
}
