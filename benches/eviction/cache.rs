//! The cache that a policy works for, and what came of it.

use crate::policies::{Policy, View};
use crate::trace::{Event, Trace};

/// What a policy decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Each blob for itself.
    Blob,
    /// Each blob for itself, but a use of a manifest is a use of all that it names.
    Credited,
    /// Images: a use of the manifest is a use of all of it, and an eviction takes with it every
    /// blob that no other image names.
    Image,
}

/// Counts after the warm-up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) objects: u64,
    pub(crate) object_hits: u64,
    pub(crate) bytes: u64,
    pub(crate) byte_hits: u64,
    pub(crate) pulls: u64,
    /// Pulls that needed nothing from upstream.
    pub(crate) complete: u64,
    pub(crate) upstream_requests: u64,
}

struct Cache<'a> {
    trace: &'a Trace,
    unit: Unit,
    capacity: u64,
    held: u64,
    stored: Vec<bool>,
    /// How many kept images name the blob.
    named: Vec<u32>,
    kept: Vec<bool>,
}

impl Cache<'_> {
    fn size(&self, blob: u32) -> u64 {
        self.trace.sizes[blob as usize]
    }

    /// What goes when the image goes.
    fn frees(&self, unit: u32) -> u64 {
        if self.unit != Unit::Image {
            return self.size(unit);
        }
        let blobs = self.trace.images[unit as usize].blobs.iter();
        blobs
            .filter(|blob| self.stored[**blob as usize] && self.named[**blob as usize] == 1)
            .map(|blob| self.size(*blob))
            .sum()
    }

    /// An image's share of what it and others name.
    fn share(&self, image: u32) -> u64 {
        let blobs = self.trace.images[image as usize].blobs.iter();
        blobs
            .filter(|blob| self.stored[**blob as usize])
            .map(|blob| self.size(*blob) / u64::from(self.named[*blob as usize].max(1)))
            .sum()
    }

    fn view<'b>(&self, event: &Event, frees: &'b dyn Fn(u32) -> u64) -> View<'b> {
        View { capacity: self.capacity, now_ms: event.at_ms, frees }
    }

    fn remove(&mut self, blob: u32) {
        if std::mem::replace(&mut self.stored[blob as usize], false) {
            self.held -= self.size(blob);
        }
    }

    fn evict(&mut self, unit: u32) {
        if self.unit != Unit::Image {
            self.remove(unit);
            return;
        }
        self.kept[unit as usize] = false;
        let trace = self.trace;
        for blob in &trace.images[unit as usize].blobs {
            self.named[*blob as usize] -= 1;
            if self.named[*blob as usize] == 0 {
                self.remove(*blob);
            }
        }
    }

    /// Serves an event, fetching what is missing.
    fn serve(&mut self, event: &Event, policy: &mut dyn Policy) -> Outcome {
        let mut outcome = Outcome::default();
        let image = &self.trace.images[event.image as usize];
        let new_image = !self.kept[event.image as usize];
        if self.unit == Unit::Image && new_image {
            self.kept[event.image as usize] = true;
            for blob in &image.blobs {
                self.named[*blob as usize] += 1;
            }
        }
        for (n, blob) in image.blobs.iter().enumerate() {
            let wanted = event.wanted >> n & 1 == 1;
            let had = self.stored[*blob as usize];
            if wanted {
                outcome.objects += 1;
                outcome.bytes += self.size(*blob);
                if had {
                    outcome.object_hits += 1;
                    outcome.byte_hits += self.size(*blob);
                } else {
                    outcome.upstream_requests += 1;
                    self.stored[*blob as usize] = true;
                    self.held += self.size(*blob);
                }
            }
            let counts = match self.unit {
                Unit::Blob => wanted,
                Unit::Credited => wanted || had,
                Unit::Image => false,
            };
            if counts {
                let view = self.view(event, &|_| 0);
                policy.used(*blob, self.size(*blob), !had, &view);
            }
        }
        if self.unit == Unit::Image {
            let view = self.view(event, &|_| 0);
            policy.used(event.image, self.share(event.image), new_image, &view);
        }
        if event.is_pull() {
            outcome.pulls = 1;
            outcome.complete = u64::from(outcome.upstream_requests == 0);
        }
        while self.held > self.capacity {
            let victim = {
                let frees = |unit| self.frees(unit);
                policy.victim(&self.view(event, &frees))
            };
            self.evict(victim);
        }
        outcome
    }
}

/// Runs the whole trace through a cache of `capacity` bytes.
pub(crate) fn run(trace: &Trace, capacity: u64, unit: Unit, policy: &mut dyn Policy) -> Outcome {
    let mut cache = Cache {
        trace,
        unit,
        capacity,
        held: 0,
        stored: vec![false; trace.sizes.len()],
        named: vec![0; trace.sizes.len()],
        kept: vec![false; trace.images.len()],
    };
    let mut total = Outcome::default();
    for (n, event) in trace.events.iter().enumerate() {
        let outcome = cache.serve(event, policy);
        if n >= trace.counted_from {
            total.objects += outcome.objects;
            total.object_hits += outcome.object_hits;
            total.bytes += outcome.bytes;
            total.byte_hits += outcome.byte_hits;
            total.pulls += outcome.pulls;
            total.complete += outcome.complete;
            total.upstream_requests += outcome.upstream_requests;
        }
    }
    total
}
