//! A synthetic registry workload, built from published statistics.
//!
//! Sources, by the names used below:
//! - FAST'18: Anwar et al., "Improving Docker Registry Design based on Production Workload
//!   Analysis", USENIX FAST 2018. Traces of 75 days from IBM's registries in five data centers.
//! - Hub'19: Zhao et al., "Large-Scale Analysis of the Docker Hub Dataset", IEEE CLUSTER 2019
//!   (and its longer form in TPDS 2021). 167 TB of public images.
//!
//! A number without a source is an estimate, and says so. What the trace comes out as is printed
//! above the tables, so that it can be held against the sources again.
//!
//! An image is its manifest, its configuration and its layers; an index counts as a part of the
//! manifest. Repositories release images that share the layers of their base image and the first
//! of their own layers. Who pulls: CI runners in bursts, the nodes of a cluster, and scans.

use crate::random::{Random, Weighted};

/// FAST'18: as long as its traces.
const DAYS: u64 = 75;
const HOUR_MS: u64 = 3_600_000;
pub(crate) const DAY_MS: u64 = 24 * HOUR_MS;
const TRACE_MS: u64 = DAYS * DAY_MS;
/// The first part of the trace fills the caches and is not counted. Estimate: a third.
const WARM_UP_MS: u64 = TRACE_MS / 3;

/// Estimates: what an organisation of a few hundred developers uses.
const REPOSITORIES: usize = 400;
const BASES: usize = 40;
/// Estimate: official images are rebuilt about monthly, for their distribution's updates.
const BASE_REBUILT_MS: f64 = 30.0 * DAY_MS as f64;

/// Hub'19: the median image has 8 layers, and 90 % have fewer than 18.
const LAYERS_MEDIAN: f64 = 8.0;
const LAYERS_P90: f64 = 18.0;
/// A blob of an image is a bit of a `u64`: the manifest, the configuration, and these.
const LAYERS_MAX: usize = 62;
/// Hub'19: half of the compressed layers are below 4 MB, 90 % below 63 MB. The ends are
/// estimates: a layer that changes nothing, and a layer with a model or a toolchain.
const BASE_LAYER_BYTES: &[(f64, f64)] = &[(0.0, 32.0), (0.5, 4e6), (0.9, 63e6), (1.0, 1e9)];
/// FAST'18: of the layers pulled, about 65 % are below 1 MB and about 80 % below 10 MB. The other
/// points are estimates.
const OWN_LAYER_BYTES: &[(f64, f64)] =
    &[(0.0, 32.0), (0.65, 1e6), (0.8, 10e6), (0.98, 200e6), (1.0, 1e9)];
/// Estimates, from images at hand: about 100 bytes a layer, and a configuration's history.
const MANIFEST_BYTES: f64 = 1_500.0;
const CONFIG_BYTES: f64 = 6_000.0;

/// FAST'18 finds popularity heavily skewed: the top 1 % of the layers take 42 % of the requests
/// at one site and 59 % at another. The exponents are estimates that come out near it.
const POPULARITY_EXPONENT: f64 = 1.0;
const BASE_EXPONENT: f64 = 1.1;
/// Estimate: each week this share of the repositories changes places with any other.
const DRIFT_WEEKLY: f64 = 0.04;

/// Estimates: how often repositories release, and the share of them that does.
const RELEASES: &[(f64, u64)] = &[(0.15, 1), (0.45, 7), (0.3, 28), (0.1, 10_000)];
/// FAST'18 finds that young layers are the ones that are pulled again. Estimates: a pipeline takes
/// the newest release, or one that was pinned, or an older one.
const CI_NEWEST: f64 = 0.7;
const CI_PINNED: f64 = 0.2;
/// Estimate: releases between a pinned image and the newest one when it was pinned.
const PINNED_AGE: f64 = 3.0;

/// Estimates: runners of one pipeline that pull the same image within two minutes, and how many
/// of them begin with nothing.
const CI_RUNNERS: f64 = 4.0;
const CI_BURST_MS: f64 = 60_000.0;
const CI_COLD: f64 = 0.7;

/// Estimates: nodes of a cluster, images on each, the days until a node is replaced by an empty
/// one, restarts of pods for each node and day (each asks for the manifest only), and deployments
/// that stay with the image they have.
const NODES: usize = 60;
const IMAGES_OF_A_NODE: usize = 25;
const NODE_LIFE_MS: f64 = 15.0 * DAY_MS as f64;
const RESTARTS: f64 = 8.0;
const DEPLOYED_PINNED: f64 = 0.35;
const DEPLOYED: usize = 150;
/// Estimate: within how long a release reaches the nodes.
const ROLLOUT_MS: f64 = 2.0 * HOUR_MS as f64;

/// Estimate: of the images that a scan walks through, the share that nobody else uses.
const SCAN_STRANGERS: f64 = 0.7;
const SCAN_STEP_MS: u64 = 20_000;

/// How much of each kind of use a workload has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Pipelines each day.
    pipelines: f64,
    /// Whether the cluster pulls here.
    cluster: bool,
    /// Images of one scan, and days between scans.
    scan: usize,
    scan_days: u64,
}

/// Estimates: three kinds of site.
pub(crate) const WORKLOADS: [Workload; 3] = [
    Workload { name: "CI", pipelines: 90.0, cluster: false, scan: 60, scan_days: 14 },
    Workload { name: "cluster", pipelines: 15.0, cluster: true, scan: 60, scan_days: 14 },
    Workload { name: "scans", pipelines: 50.0, cluster: true, scan: 150, scan_days: 2 },
];

/// An image: its blobs, the manifest first.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) blobs: Vec<u32>,
}

/// One client pulls, or looks at, one image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) at_ms: u64,
    pub(crate) image: u32,
    /// Which of the image's blobs are asked for; the manifest always is.
    pub(crate) wanted: u64,
}

impl Event {
    /// Whether anything but the manifest is asked for.
    pub(crate) const fn is_pull(&self) -> bool {
        self.wanted > 1
    }
}

#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) sizes: Vec<u64>,
    pub(crate) images: Vec<Image>,
    pub(crate) events: Vec<Event>,
    /// Events before this one only fill the caches.
    pub(crate) counted_from: usize,
}

struct Repository {
    /// Its releases with their times, the oldest first.
    releases: Vec<(u64, u32)>,
    pinned: usize,
}

impl Repository {
    /// The place in `releases` of what is newest at that time.
    fn newest(&self, at_ms: u64) -> usize {
        self.releases.partition_point(|(from, _)| *from <= at_ms).max(1) - 1
    }
}

impl Trace {
    pub(crate) fn new(workload: Workload, seed: u64) -> Self {
        let mut maker = Maker {
            random: Random::new(seed),
            trace: Self {
                sizes: Vec::new(),
                images: Vec::new(),
                events: Vec::new(),
                counted_from: 0,
            },
        };
        let bases = maker.bases();
        let repositories: Vec<_> = (0..REPOSITORIES).map(|_| maker.repository(&bases)).collect();
        let places = maker.drift();
        maker.ci(workload.pipelines, &repositories, &places);
        if workload.cluster {
            maker.cluster(&repositories);
        }
        maker.scans(workload, &bases, &repositories);
        let mut trace = maker.trace;
        trace.events.retain(|event| event.at_ms < TRACE_MS);
        // Stable: equal times stay in the order in which they were made.
        trace.events.sort_by_key(|event| event.at_ms);
        trace.counted_from = trace.events.partition_point(|event| event.at_ms < WARM_UP_MS);
        trace
    }

    /// The blobs that an event asks for.
    pub(crate) fn wanted(&self, event: &Event) -> impl Iterator<Item = u32> {
        let wanted = event.wanted;
        let blobs = self.images[event.image as usize].blobs.iter();
        blobs.enumerate().filter(move |(n, _)| wanted >> n & 1 == 1).map(|(_, blob)| *blob)
    }

    /// How often each blob is asked for.
    pub(crate) fn requests(&self) -> Vec<u64> {
        let mut requests = vec![0; self.sizes.len()];
        for event in &self.events {
            for blob in self.wanted(event) {
                requests[blob as usize] += 1;
            }
        }
        requests
    }

    /// Bytes of everything that is asked for, each blob once.
    pub(crate) fn footprint(&self) -> u64 {
        let requests = self.requests();
        self.sizes.iter().zip(&requests).filter(|(_, n)| **n > 0).map(|(bytes, _)| bytes).sum()
    }
}

/// Bits of all blobs of an image.
const fn all(image: &Image) -> u64 {
    u64::MAX >> (64 - image.blobs.len())
}

struct Maker {
    random: Random,
    trace: Trace,
}

impl Maker {
    fn blob(&mut self, bytes: f64) -> u32 {
        self.trace.sizes.push(bytes as u64);
        (self.trace.sizes.len() - 1) as u32
    }

    fn layers(&mut self, count: usize, bytes: &[(f64, f64)]) -> Vec<u32> {
        (0..count)
            .map(|_| {
                let bytes = self.random.quantile(bytes);
                self.blob(bytes)
            })
            .collect()
    }

    fn image(&mut self, layers: &[u32]) -> u32 {
        let manifest = self.blob(MANIFEST_BYTES);
        let config = self.blob(CONFIG_BYTES);
        let blobs = [manifest, config].into_iter().chain(layers.iter().take(LAYERS_MAX).copied());
        self.trace.images.push(Image { blobs: blobs.collect() });
        (self.trace.images.len() - 1) as u32
    }

    /// Base images: the layers of each of their builds, with the time of the build.
    fn bases(&mut self) -> Vec<Vec<(u64, Vec<u32>)>> {
        (0..BASES)
            .map(|_| {
                // Estimate: a base is 1 to 5 of the layers.
                let count = 1 + self.random.below(5);
                let mut builds = vec![(0, self.layers(count, BASE_LAYER_BYTES))];
                let mut at = self.random.unit() * BASE_REBUILT_MS;
                while at < TRACE_MS as f64 {
                    // A rebuild is of the same size, more or less: the same layers, new content.
                    let earlier = builds[builds.len() - 1].1.clone();
                    let layers = earlier
                        .iter()
                        .map(|layer| {
                            let bytes = self.trace.sizes[*layer as usize] as f64;
                            let changed = bytes * (0.95 + 0.1 * self.random.unit());
                            self.blob(changed)
                        })
                        .collect();
                    builds.push((at as u64, layers));
                    at += BASE_REBUILT_MS * (0.5 + self.random.unit());
                }
                builds
            })
            .collect()
    }

    fn repository(&mut self, bases: &[Vec<(u64, Vec<u32>)>]) -> Repository {
        let base = &bases[Weighted::zipf(bases.len(), BASE_EXPONENT).draw(&mut self.random)];
        let days = RELEASES
            [Weighted::new(RELEASES.iter().map(|(share, _)| *share)).draw(&mut self.random)]
        .1;
        let total = self.random.log_normal(LAYERS_MEDIAN, LAYERS_P90) as usize;
        let count = total.clamp(1, LAYERS_MAX).saturating_sub(base[0].1.len()).max(1);
        let mut own = self.layers(count, OWN_LAYER_BYTES);
        let mut releases = Vec::new();
        let mut built_on = 0;
        let mut at = 0;
        while at < TRACE_MS {
            let newest = base.partition_point(|(from, _)| *from <= at).max(1) - 1;
            // A build cache ends at the first change; a new base changes everything above it.
            let changed = if newest > built_on { count } else { 1 + self.random.below(count) };
            built_on = newest;
            if !releases.is_empty() {
                for layer in &mut own[count - changed..] {
                    let bytes = self.trace.sizes[*layer as usize] as f64;
                    self.trace.sizes.push((bytes * (0.9 + 0.2 * self.random.unit())) as u64);
                    *layer = (self.trace.sizes.len() - 1) as u32;
                }
            }
            let layers: Vec<u32> = base[newest].1.iter().chain(&own).copied().collect();
            releases.push((at, self.image(&layers)));
            at += (days as f64 * DAY_MS as f64 * (0.5 + self.random.unit())) as u64;
        }
        let pinned = (self.random.exponential(PINNED_AGE) as usize).min(releases.len() - 1);
        Repository { releases, pinned }
    }

    /// For each week, which repository is on which place of the popularity.
    fn drift(&mut self) -> Vec<Vec<usize>> {
        let mut places: Vec<usize> = (0..REPOSITORIES).collect();
        (0..=DAYS / 7)
            .map(|_| {
                for place in 0..REPOSITORIES {
                    if self.random.chance(DRIFT_WEEKLY) {
                        let other = self.random.below(REPOSITORIES);
                        places.swap(place, other);
                    }
                }
                places.clone()
            })
            .collect()
    }

    fn event(&mut self, at_ms: u64, image: u32, wanted: u64) {
        self.trace.events.push(Event { at_ms, image, wanted: wanted | 1 });
    }

    fn ci(&mut self, pipelines: f64, repositories: &[Repository], places: &[Vec<usize>]) {
        let popularity = Weighted::zipf(REPOSITORIES, POPULARITY_EXPONENT);
        let mut at = 0.0;
        loop {
            at += self.random.exponential(DAY_MS as f64 / pipelines);
            if at >= TRACE_MS as f64 {
                return;
            }
            let week = (at as u64 / (7 * DAY_MS)) as usize;
            let repository = &repositories[places[week][popularity.draw(&mut self.random)]];
            let newest = repository.newest(at as u64);
            let kind = self.random.unit();
            let release = if kind < CI_NEWEST {
                newest
            } else if kind < CI_NEWEST + CI_PINNED {
                repository.pinned.min(newest)
            } else {
                newest.saturating_sub(self.random.geometric(3.0))
            };
            let image = repository.releases[release].1;
            for _ in 0..self.random.geometric(CI_RUNNERS) {
                let blobs = &self.trace.images[image as usize];
                let wanted = if self.random.chance(CI_COLD) {
                    all(blobs)
                } else {
                    // What the runner has is a prefix of the layers, from an image like it.
                    let had = 2 + self.random.below(blobs.blobs.len() - 1);
                    all(blobs) & !((1u64 << (had - 1) << 1).wrapping_sub(1) & !0b11)
                };
                let start = at + self.random.exponential(CI_BURST_MS);
                self.event(start as u64, image, wanted);
            }
        }
    }

    /// Nodes that keep what they pulled: a release asks for what is new in it, a restart for the
    /// manifest, and a node that is replaced for everything.
    fn cluster(&mut self, repositories: &[Repository]) {
        let chosen = Weighted::zipf(DEPLOYED, POPULARITY_EXPONENT * 0.7);
        let pinned: Vec<bool> =
            (0..DEPLOYED).map(|_| self.random.chance(DEPLOYED_PINNED)).collect();
        for _ in 0..NODES {
            let mut runs: Vec<usize> =
                (0..IMAGES_OF_A_NODE).map(|_| chosen.draw(&mut self.random)).collect();
            runs.sort_unstable();
            runs.dedup();
            // What happens to this node, in order of time: a release, a restart, its end.
            let mut life: Vec<(u64, Option<usize>, bool)> = Vec::new();
            let mut ends = self.random.unit() * NODE_LIFE_MS;
            while ends < TRACE_MS as f64 {
                life.push((ends as u64, None, true));
                ends += self.random.exponential(NODE_LIFE_MS).max(HOUR_MS as f64);
            }
            for run in &runs {
                life.push((self.random.exponential(HOUR_MS as f64) as u64, Some(*run), true));
                if !pinned[*run] {
                    for (at, _) in &repositories[*run].releases[1..] {
                        let at = at + self.random.exponential(ROLLOUT_MS) as u64;
                        life.push((at, Some(*run), true));
                    }
                }
            }
            let mut restart = 0.0;
            while restart < TRACE_MS as f64 {
                restart += self.random.exponential(DAY_MS as f64 / RESTARTS);
                let run = runs[self.random.below(runs.len())];
                life.push((restart as u64, Some(run), false));
            }
            life.sort_unstable();
            let mut has = vec![false; self.trace.sizes.len()];
            for (at, run, moves) in life {
                match run {
                    None => {
                        has.fill(false);
                        // Its pods are scheduled again within minutes.
                        for run in runs.clone() {
                            let at = at + self.random.exponential(120_000.0) as u64;
                            self.node_pulls(&repositories[run], pinned[run], at, &mut has);
                        }
                    }
                    Some(run) if moves => {
                        self.node_pulls(&repositories[run], pinned[run], at, &mut has);
                    }
                    Some(run) => {
                        let repository = &repositories[run];
                        let release = if pinned[run] { 0 } else { repository.newest(at) };
                        self.event(at, repository.releases[release].1, 1);
                    }
                }
            }
        }
    }

    fn node_pulls(&mut self, from: &Repository, pinned: bool, at: u64, has: &mut [bool]) {
        let image = from.releases[if pinned { 0 } else { from.newest(at) }].1;
        let mut wanted = 0;
        for (n, blob) in self.trace.images[image as usize].blobs.iter().enumerate() {
            if !std::mem::replace(&mut has[*blob as usize], true) {
                wanted |= 1 << n;
            }
        }
        self.event(at, image, wanted);
    }

    /// Somebody walks through many images once: a scanner, a mirror, a search.
    fn scans(
        &mut self,
        workload: Workload,
        bases: &[Vec<(u64, Vec<u32>)>],
        repositories: &[Repository],
    ) {
        for day in (0..DAYS).step_by(workload.scan_days as usize) {
            let begins = day * DAY_MS + self.random.below(DAY_MS as usize) as u64;
            for n in 0..workload.scan as u64 {
                let at = begins + n * SCAN_STEP_MS;
                let image = if self.random.chance(SCAN_STRANGERS) {
                    let base = &bases[self.random.below(bases.len())];
                    let newest = base.partition_point(|(from, _)| *from <= at).max(1) - 1;
                    let count = self.random.log_normal(LAYERS_MEDIAN, LAYERS_P90) as usize;
                    let own = self.layers(count.clamp(1, LAYERS_MAX), OWN_LAYER_BYTES);
                    let layers: Vec<u32> = base[newest].1.iter().chain(&own).copied().collect();
                    self.image(&layers)
                } else {
                    let repository = &repositories[self.random.below(repositories.len())];
                    let newest = repository.newest(at);
                    repository.releases[self.random.below(newest + 1)].1
                };
                let wanted = all(&self.trace.images[image as usize]);
                self.event(at, image, wanted);
            }
        }
    }
}
