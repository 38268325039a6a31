//! What is said of limits that are reached: a counter, an event for operators, and now and then a
//! line in the log. A flood must not flood the log as well.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{IntCounterVec, Opts, Registry};
use tokio::time::Instant;

use super::recent::Recent;
use crate::gate::{Full, Limit};

/// How often the log says that one limit is reached, at most.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Takes note of what is refused. Cheap to clone; clones share the notes.
#[derive(Clone, Debug)]
pub struct Overload {
    refused: IntCounterVec,
    recent: Recent,
    said: Arc<Mutex<[Said; Limit::ALL.len()]>>,
}

/// What the log knows of one limit.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    at: Option<Instant>,
    /// Refusals since then.
    unsaid: u64,
}

impl Overload {
    /// Registers the counter.
    ///
    /// # Errors
    /// When there is one already.
    pub fn new(registry: &Registry, recent: Recent) -> Result<Self, prometheus::Error> {
        let refused = IntCounterVec::new(
            Opts::new("pierhead_http_refused_total", "What was refused at a limit, by limit"),
            &["limit"],
        )?;
        // From zero on: that one is reached for the first time is what alerts are about.
        for limit in Limit::ALL {
            refused.with_label_values(&[limit.as_str()]);
        }
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { refused, recent, said: Arc::default() })
    }

    /// A connection or request from `client` was refused at `limit`.
    pub fn refused(&self, limit: Limit, client: IpAddr) {
        self.refused.with_label_values(&[limit.as_str()]).inc();
        self.recent.overloaded(limit, Full(limit).to_string(), client);
        if let Some(times) = self.worth_a_line(limit) {
            tracing::warn!(
                limit = limit.as_str(),
                times,
                last_client = %client,
                "refused with 503: {}",
                Full(limit)
            );
        }
    }

    /// How many refusals a line now would tell of; none if there was one a short while ago.
    fn worth_a_line(&self, limit: Limit) -> Option<u64> {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = said.get_mut(limit as usize)?;
        said.unsaid = said.unsaid.saturating_add(1);
        if said.at.is_some_and(|at| now.duration_since(at) < LOG_INTERVAL) {
            return None;
        }
        said.at = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_one_line_and_one_event() {
        let recent = Recent::new(Clock::manual(Timestamp::from_unix_ms(1)));
        let overload = Overload::new(&Registry::new(), recent.clone()).unwrap();
        assert_eq!(overload.worth_a_line(Limit::Requests), Some(1));
        for _ in 0..1000 {
            assert_eq!(overload.worth_a_line(Limit::Requests), None);
        }
        // Another limit has a line of its own.
        assert_eq!(overload.worth_a_line(Limit::PrivateTransfers), Some(1));
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(overload.worth_a_line(Limit::Requests), Some(1001));

        for client in 0..100 {
            overload.refused(Limit::Followers, IpAddr::from([192, 0, 2, client]));
        }
        let list = recent.list();
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].times, list[0].reason), (100, "followers"));
        assert_eq!(overload.refused.with_label_values(&["followers"]).get(), 100);
    }
}
