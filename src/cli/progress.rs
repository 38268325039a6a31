//! Progress for whoever watches a terminal; nothing for everybody else.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar without news moves, so that one sees that it lives.
const TICK: Duration = Duration::from_millis(200);

/// How many bytes have passed, and how quickly, on the standard error if that is a terminal.
#[derive(Clone, Debug)]
pub(super) struct Meter(ProgressBar);

impl Meter {
    /// Counts bytes of what `label` says.
    pub(super) fn bytes(label: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, target());
        bar.set_style(style(METER));
        bar.set_message(label.to_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// So many more.
    pub(super) fn passed(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }

    /// Takes it off the terminal.
    pub(super) fn done(&self) {
        self.0.finish_and_clear();
    }
}

/// Several meters below one that sums them up.
#[derive(Clone, Debug)]
pub(super) struct Board {
    all: MultiProgress,
    total: ProgressBar,
}

impl Board {
    /// An empty board.
    pub(super) fn new() -> Self {
        let all = MultiProgress::with_draw_target(target());
        let total = all.add(ProgressBar::new(0));
        total.set_style(style(TOTAL));
        total.enable_steady_tick(TICK);
        Self { all, total }
    }

    /// What is being done as a whole.
    pub(super) fn label(&self, label: &str) {
        self.total.set_message(label.to_owned());
    }

    /// So many more bytes are to come in all.
    pub(super) fn expect(&self, bytes: u64) {
        self.total.inc_length(bytes);
    }

    /// A meter of its own for one part. Taking it off leaves its bytes in the total.
    pub(super) fn part(&self, label: &str, len: Option<u64>) -> Part {
        let bar = ProgressBar::no_length();
        if let Some(len) = len {
            bar.set_length(len);
        }
        let bar = self.all.insert_before(&self.total, bar);
        bar.set_style(style(PART));
        bar.set_message(label.to_owned());
        Part { bar, total: self.total.clone(), passed: 0 }
    }

    /// Takes everything off the terminal.
    pub(super) fn done(&self) {
        self.total.finish_and_clear();
    }
}

/// The meter of one part.
#[derive(Debug)]
pub(super) struct Part {
    bar: ProgressBar,
    total: ProgressBar,
    passed: u64,
}

impl Part {
    /// So many more.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.passed += bytes as u64;
        self.bar.inc(bytes as u64);
        self.total.inc(bytes as u64);
    }

    /// It begins anew: what has passed does not count.
    pub(super) fn again(&mut self) {
        self.bar.reset();
        self.total.dec(self.passed);
        self.passed = 0;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

const METER: &str = "{spinner} {msg} {bytes} {elapsed} {bytes_per_sec}";
const PART: &str = "  {msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec}";
const TOTAL: &str = "{spinner} {msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {elapsed}";

fn target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template of ours that is wrong costs the look and no more.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_right() {
        for template in [METER, PART, TOTAL] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
