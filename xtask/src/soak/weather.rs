//! Two upstreams with the same content, and what goes wrong with them.

use std::time::Duration;

use pierhead_kit::random::Random;
use pierhead_kit::upstream::{Fault, FaultyUpstream, ImageDigests, On};
use tokio::time::Instant;

use super::Dice;

/// The longest time between two changes of the weather, in milliseconds.
const CHANGE_MS_MAX: u64 = 4_000;

/// How many faults are at work at the same time.
const FAULTS_MAX: usize = 4;

/// A registry and its mirror.
pub(super) struct Upstreams([FaultyUpstream; 2]);

impl Upstreams {
    pub(super) fn start() -> Self {
        Self([FaultyUpstream::start_blocking(), FaultyUpstream::start_blocking()])
    }

    /// The configuration of a Pierhead that pulls from them through a small store, and whose
    /// limits of time are short: an hour is to have many of them.
    pub(super) fn config(&self, cap_bytes: u64) -> String {
        let [first, second] = self.0.each_ref().map(FaultyUpstream::url);
        format!(
            "[upstream.\"docker.io\"]\nendpoints = [\"{first}\", \"{second}\"]\n\
             connect_timeout = \"1s\"\nheader_timeout = \"2s\"\nsilence_timeout = \"2s\"\n\
             tag_ttl = \"1s\"\nabsent_ttl = \"1s\"\n\
             [fill]\ncondemned_for = \"5s\"\nanswer_within = \"10s\"\n\
             [storage]\nmax_size = \"{cap_bytes}B\"\nmin_free = \"0B\"\n\
             [log]\nlevel = \"error\"\n"
        )
    }

    /// Adds an image to both.
    pub(super) fn add_image(&self, repository: &str, tag: &str, layers: &[Random]) -> ImageDigests {
        let [first, second] = &self.0;
        first.add_image(repository, tag, layers.iter().copied());
        second.add_image(repository, tag, layers.iter().copied())
    }

    /// Forgets what was asked: an hour of it would fill the memory.
    pub(super) fn forget_log(&self) {
        self.0.iter().for_each(FaultyUpstream::forget_log);
    }
}

/// The weather.
pub(super) struct Weather<'a> {
    upstreams: &'a Upstreams,
    dice: Dice,
    change_at: Instant,
    is_down: [bool; 2],
    faults: usize,
}

impl<'a> Weather<'a> {
    pub(super) fn new(upstreams: &'a Upstreams, seed: u64) -> Self {
        let dice = Dice::new(seed ^ 0x77ea_7be2);
        Self { upstreams, dice, change_at: Instant::now(), is_down: [false; 2], faults: 0 }
    }

    /// Changes, if it is time for that.
    pub(super) fn change(&mut self) {
        if Instant::now() < self.change_at {
            return;
        }
        self.change_at = Instant::now() + Duration::from_millis(self.dice.below(CHANGE_MS_MAX));
        let which = usize::from(self.dice.below(2) == 1);
        let upstream = &self.upstreams.0[which];
        if self.is_down[which] {
            upstream.up();
            self.is_down[which] = false;
            return;
        }
        match self.dice.below(10) {
            0 => {
                upstream.down();
                self.is_down[which] = true;
            }
            1 => {
                // Who closes connections while it accepts new ones is never done.
                upstream.down();
                upstream.up();
            }
            _ if self.faults == FAULTS_MAX => {
                self.upstreams.0.iter().for_each(FaultyUpstream::clear_faults);
                self.faults = 0;
            }
            _ => {
                let times = 1 + self.dice.below(8);
                upstream.fault(self.on().times(times), self.fault());
                self.faults += 1;
            }
        }
    }

    fn on(&mut self) -> On {
        match self.dice.below(5) {
            0 => On::manifests(),
            1 => On::any(),
            _ => On::blobs().get(),
        }
    }

    fn fault(&mut self) -> Fault {
        let somewhere = self.dice.below(super::load::LAYER_BYTES_MAX);
        match self.dice.below(13) {
            0 => Fault::Throttle(100_000 + somewhere),
            1 | 2 => Fault::StallAfter(somewhere),
            3 | 4 => Fault::CutAfter(somewhere),
            5 => Fault::FlipByte(somewhere),
            6 => Fault::ContentLength(somewhere),
            7 => Fault::Chunked,
            8 => Fault::status(503),
            9 => Fault::too_many_requests("1"),
            10 => Fault::NoHeaders,
            11 => Fault::IgnoreRange,
            _ => Fault::Drop,
        }
    }

    /// The sun comes out.
    pub(super) fn clear(&mut self) {
        for (upstream, is_down) in self.upstreams.0.iter().zip(&mut self.is_down) {
            upstream.clear_faults();
            if std::mem::take(is_down) {
                upstream.up();
            }
        }
    }
}
