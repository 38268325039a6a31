//! How many transfers of one blob at a time are worth it: one more is tried, and kept if bytes come
//! in quicker.

use std::time::Duration;

use tokio::time::Instant;

/// Over how long the rate is measured.
const WINDOW: Duration = Duration::from_secs(2);

/// One transfer more has to bring so many percent more, or it is not worth its connection.
const GAIN_PERCENT: u64 = 20;

/// How long it takes until one more is tried again.
const SETTLED_FOR: Duration = Duration::from_secs(30);

/// How many transfers at a time.
#[derive(Debug)]
pub struct Pace {
    max: usize,
    connections: usize,
    window: Option<Window>,
    /// The rate with one transfer less, in bytes a second, while one more is on trial.
    before: Option<u64>,
    settled_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    landed: u64,
}

impl Pace {
    /// One at first, `max` at most.
    pub const fn new(max: usize) -> Self {
        Self { max, connections: 1, window: None, before: None, settled_at: None }
    }

    /// How many there may be now.
    pub const fn connections(&self) -> usize {
        self.connections
    }

    /// `landed` bytes have landed in all, and `running` transfers run. To be called every now and
    /// then.
    pub fn tick(&mut self, now: Instant, landed: u64, running: usize) {
        if running < self.connections {
            // What comes in now says nothing about as many as there may be.
            self.window = None;
            return;
        }
        let window = *self.window.get_or_insert(Window { began: now, landed });
        let took = now.duration_since(window.began);
        if took < WINDOW {
            return;
        }
        self.window = None;
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = landed.saturating_sub(window.landed).saturating_mul(1000) / millis;
        if let Some(before) = self.before.take()
            && rate.saturating_mul(100) < before.saturating_mul(100 + GAIN_PERCENT)
        {
            self.connections -= 1;
            self.settled_at = Some(now);
            return;
        }
        let is_settled = self.settled_at.is_some_and(|at| now.duration_since(at) < SETTLED_FOR);
        if self.connections < self.max && !is_settled {
            self.before = Some(rate);
            self.connections += 1;
        }
    }

    /// A transfer broke off: upstream is not to be pressed.
    pub const fn broke_off(&mut self) {
        self.connections = 1;
        self.window = None;
        self.before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many it settles on where `rate` bytes a second come in with so many transfers.
    fn settles_at(rate: impl Fn(usize) -> u64) -> usize {
        let mut pace = Pace::new(4);
        let (mut now, mut landed) = (Instant::now(), 0);
        for _ in 0..25 {
            pace.tick(now, landed, pace.connections());
            now += Duration::from_secs(1);
            landed += rate(pace.connections());
        }
        pace.connections()
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_as_bring_more() {
        assert_eq!(settles_at(|n| 10_000_000 * n as u64), 4, "each is limited by itself");
        assert_eq!(settles_at(|_| 100_000_000), 1, "they share one line");
        assert_eq!(settles_at(|n| 10_000_000 * n.min(2) as u64), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_broke_off_goes_on_alone() {
        let mut pace = Pace::new(4);
        let now = Instant::now();
        pace.tick(now, 0, 1);
        pace.tick(now + WINDOW, 1000, 1);
        assert_eq!(pace.connections(), 2);
        pace.broke_off();
        assert_eq!(pace.connections(), 1);
    }
}
