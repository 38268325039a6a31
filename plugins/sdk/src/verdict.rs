//! Verdicts, said in few words.

use std::time::Duration;

use crate::{Decision, Denial, DependsOn, ErrorCode, Obligation, Reuse, Verdict};

impl Verdict {
    const fn of(decision: Decision) -> Self {
        Self { decision, obligations: Vec::new(), reuse: None }
    }

    /// Nothing to say: the next plugin decides.
    #[must_use]
    pub const fn abstain() -> Self {
        Self::of(Decision::Abstain)
    }

    /// Lets it through, and asks no other plugin.
    #[must_use]
    pub const fn allow() -> Self {
        Self::of(Decision::Allow)
    }

    /// Refuses. The message is shown to the person who ran the pull.
    #[must_use]
    pub fn deny(message: impl Into<String>) -> Self {
        Self::deny_with(ErrorCode::Denied, message)
    }

    /// Refuses, with another error than `DENIED`.
    #[must_use]
    pub fn deny_with(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::of(Decision::Deny(Denial { code, message: message.into(), detail: None }))
    }

    /// Says more about a refusal, for the log alone. Changes nothing if it is none.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        if let Decision::Deny(denial) = &mut self.decision {
            denial.detail = Some(detail.into());
        }
        self
    }

    /// Tells the client something, by a header that clients print.
    #[must_use]
    pub fn warn(self, message: impl Into<String>) -> Self {
        self.oblige(Obligation::Warn(message.into()))
    }

    /// Notes a key and a value in the access log.
    #[must_use]
    pub fn audit(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.oblige(Obligation::Audit((key.into(), value.into())))
    }

    /// Counts it, under this label.
    #[must_use]
    pub fn count(self, label: impl Into<String>) -> Self {
        self.oblige(Obligation::Count(label.into()))
    }

    /// Has the image scanned by the mount of this name.
    #[must_use]
    pub fn scan(self, mount: impl Into<String>) -> Self {
        self.oblige(Obligation::Scan(mount.into()))
    }

    /// Adds something that is to be done besides.
    #[must_use]
    pub fn oblige(mut self, obligation: Obligation) -> Self {
        self.obligations.push(obligation);
        self
    }

    /// Lets Pierhead use the verdict again for this long, for requests that are equal in `key`:
    /// everything that the verdict depended on has to be named.
    #[must_use]
    pub fn reuse(mut self, ttl: Duration, key: DependsOn) -> Self {
        let ttl_ms = u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX);
        self.reuse = Some(Reuse { ttl_ms, key });
        self
    }

    /// Whether it refuses.
    #[must_use]
    pub const fn is_denied(&self) -> bool {
        matches!(self.decision, Decision::Deny(_))
    }

    /// The message of a refusal.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match &self.decision {
            Decision::Deny(denial) => Some(&denial.message),
            Decision::Abstain | Decision::Allow => None,
        }
    }

    /// What the client is told.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.obligations.iter().filter_map(|obligation| match obligation {
            Obligation::Warn(message) => Some(message.as_str()),
            Obligation::Audit(_) | Obligation::Count(_) | Obligation::Scan(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_said_in_one_line() {
        let verdict = Verdict::deny("no").detail("rule 7").warn("soon").count("denied");
        let verdict = verdict.reuse(Duration::from_secs(60), DependsOn::TAG | DependsOn::IDENTITY);
        assert!(verdict.is_denied());
        assert_eq!(verdict.message(), Some("no"));
        assert_eq!(verdict.warnings().collect::<Vec<_>>(), ["soon"]);
        let reuse = verdict.reuse.expect("it was given");
        assert_eq!(reuse.ttl_ms, 60_000);
        assert!(reuse.key.contains(DependsOn::TAG) && !reuse.key.contains(DependsOn::TIME));
        let Decision::Deny(denial) = verdict.decision else { panic!("it refuses") };
        assert_eq!(denial.detail.as_deref(), Some("rule 7"));
    }

    #[test]
    fn a_long_time_is_the_longest_that_can_be_said() {
        let verdict = Verdict::allow().reuse(Duration::MAX, DependsOn::empty());
        assert_eq!(verdict.reuse.expect("it was given").ttl_ms, u32::MAX);
    }
}
