//! Who takes part, and the running of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cache::{self, Outcome, Unit};
use crate::policies::{Decay, Hyperbolic, Kind, Ordered, Policy, S3Fifo, Scored, TinyLfu};
use crate::trace::Trace;

const MINUTE_MS: f64 = 60_000.0;

/// A policy, and what it decides about.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    make: Box<dyn Fn() -> Box<dyn Policy> + Send + Sync>,
}

fn entry<P: Policy + 'static>(
    name: impl Into<String>,
    unit: Unit,
    make: impl Fn() -> P + Send + Sync + 'static,
) -> Entry {
    Entry { name: name.into(), unit, make: Box::new(move || Box::new(make())) }
}

pub(crate) fn entries() -> Vec<Entry> {
    let mut all = Vec::new();
    for unit in [Unit::Blob, Unit::Credited, Unit::Image] {
        all.push(entry("LRU", unit, || Ordered::new(Kind::Lru)));
        all.push(entry("GDSF", unit, || Ordered::new(Kind::Gdsf)));
        all.push(entry("S3-FIFO", unit, S3Fifo::new));
        all.push(entry("**Pierhead**", unit, || Scored::new(Decay::Pierhead, 0.0, false)));
    }
    for unit in [Unit::Blob, Unit::Image] {
        all.push(entry("FIFO", unit, || Ordered::new(Kind::Fifo)));
        all.push(entry("LFU-DA", unit, || Ordered::new(Kind::LfuDa)));
        all.push(entry("W-TinyLFU", unit, TinyLfu::new));
        all.push(entry("hyperbolic", unit, || Hyperbolic::new(false)));
        all.push(entry("hyperbolic, size", unit, || Hyperbolic::new(true)));
    }
    let image = Unit::Image;
    all.push(entry("Pierhead, ghosts", image, || Scored::new(Decay::Pierhead, 0.0, true)));
    for (days, size) in [(0.1, 0.0), (0.1, 0.5), (1.0, 0.0), (1.0, 0.5), (7.0, 0.0)] {
        let name = format!("half-life {days} d, size {size}");
        all.push(entry(name, image, move || Scored::new(Decay::HalfLife(days), size, false)));
    }
    // The neighbours of what was chosen: it should not stand on a peak.
    for (power, minutes, days, size) in [
        (1.5, 15.0, 30.0, 0.0),
        (1.5, 15.0, 30.0, 1.0),
        (1.5, 60.0, 30.0, 0.5),
        (1.5, 15.0, 7.0, 0.5),
        (1.0, 15.0, 30.0, 0.5),
        (2.0, 15.0, 30.0, 0.5),
    ] {
        let name = format!("power {power}, {minutes} min, {days} d, size {size}");
        let decay = Decay::Power { power, step_ms: minutes * MINUTE_MS, days };
        all.push(entry(name, image, move || Scored::new(decay, size, false)));
    }
    all
}

/// How every entry did on one workload with one size of the cache.
pub(crate) struct Cell {
    pub(crate) workload: &'static str,
    pub(crate) capacity: f64,
    /// By entry, then by seed.
    pub(crate) outcomes: Vec<Vec<Outcome>>,
}

/// Runs all entries on the traces (one for each seed), on all processors.
pub(crate) fn run(
    workload: &'static str,
    traces: &[Trace],
    capacities: &[f64],
    entries: &[Entry],
) -> Vec<Cell> {
    let mut cells: Vec<Cell> = capacities
        .iter()
        .map(|capacity| {
            let outcomes = vec![vec![Outcome::default(); traces.len()]; entries.len()];
            Cell { workload, capacity: *capacity, outcomes }
        })
        .collect();
    let footprints: Vec<u64> = traces.iter().map(Trace::footprint).collect();
    let jobs: Vec<(usize, usize, usize)> = (0..capacities.len())
        .flat_map(|cell| (0..entries.len()).map(move |entry| (cell, entry)))
        .flat_map(|(cell, entry)| (0..traces.len()).map(move |seed| (cell, entry, seed)))
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(&mut cells);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((cell, entry, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let capacity = (footprints[*seed] as f64 * capacities[*cell]) as u64;
                    let mut policy = (entries[*entry].make)();
                    let unit = entries[*entry].unit;
                    let outcome = cache::run(&traces[*seed], capacity, unit, policy.as_mut());
                    results.lock().expect("nobody panics")[*cell].outcomes[*entry][*seed] = outcome;
                }
            });
        }
    });
    cells
}
