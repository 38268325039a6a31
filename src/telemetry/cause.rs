//! Which request is behind what is going on.
//!
//! It is known to everything that runs within [`Cause::within`], and `background::Tasks`
//! hands it on to the tasks that a request starts: so a log line of a fill names the request that
//! began it, and a question to upstream is a child of that request's span. It is a few bytes in a
//! task-local, and costs a request that logs and traces nothing a swap for each poll.

use std::fmt;
use std::future::Future;

use opentelemetry::trace::SpanContext;

tokio::task_local! {
    static CAUSE: Cause;
}

/// The id of a request, as `X-Request-Id` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    /// An id made of a number that nobody can guess from others.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What something is done for.
#[derive(Clone, Debug, Default)]
pub struct Cause {
    /// The request that began it.
    pub request: Option<RequestId>,
    /// The span that it is a part of, where traces are exported.
    pub(super) span: Option<SpanContext>,
}

impl Cause {
    /// The cause of what is going on here; an empty one if nobody said.
    pub fn current() -> Self {
        CAUSE.try_with(Clone::clone).unwrap_or_default()
    }

    /// Runs `work` for this cause. As cancel-safe as `work` is.
    pub fn within<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CAUSE.scope(self, work)
    }
}

/// The request that is behind what is going on here.
pub(super) fn current_request() -> Option<RequestId> {
    CAUSE.try_with(|cause| cause.request).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_known_within_and_not_outside() {
        let id = RequestId::new(7);
        assert_eq!(id.to_string(), "0000000000000007");
        let cause = Cause { request: Some(id), span: None };
        assert_eq!(cause.within(async { current_request() }).await, Some(id));
        assert_eq!(current_request(), None);
        assert_eq!(Cause::current().request, None);
    }
}
