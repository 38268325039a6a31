//! Progress for whoever watches a terminal; nothing for everybody else.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar without news moves, so that one sees that it lives.
const TICK: Duration = Duration::from_millis(200);

/// How many bytes have passed, and how quickly, on the standard error if that is a terminal.
#[derive(Clone, Debug)]
pub(super) struct Meter(ProgressBar);

impl Meter {
    /// Counts bytes of what `label` says.
    pub(super) fn bytes(label: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, target());
        bar.set_style(style("{spinner} {msg} {bytes} {elapsed} {bytes_per_sec}"));
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
        for template in ["{spinner} {msg} {bytes} {elapsed} {bytes_per_sec}"] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
