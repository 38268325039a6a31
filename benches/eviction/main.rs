//! Which eviction policy keeps what will be asked for: `cargo bench --bench eviction`.
//!
//! Every policy is run on synthetic traces of three kinds of site ([`trace`]), for caches of
//! several sizes, and the tables say how each did. The numbers depend on the seeds alone.
//! `-- --quick` runs one seed and two sizes.

#![allow(missing_docs, clippy::print_stdout, reason = "a benchmark is a program that prints")]
#![allow(clippy::expect_used, reason = "a mistake of the benchmark's own ends it")]

mod cache;
mod contest;
mod policies;
mod random;
mod report;
mod trace;

/// The policy's constants were found with seed 1, so it is not among these.
const SEEDS: &[u64] = &[11, 12, 13];
/// What the cache holds, as a share of everything that is asked for.
const CAPACITIES: &[f64] = &[0.01, 0.05, 0.1, 0.25];

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (seeds, capacities) =
        if quick { (&SEEDS[..1], &CAPACITIES[..2]) } else { (SEEDS, CAPACITIES) };
    let entries = contest::entries();
    let mut cells = Vec::new();
    println!("Seeds {seeds:?}.\n");
    report::trace_header();
    for workload in trace::WORKLOADS {
        let traces: Vec<_> = seeds.iter().map(|seed| trace::Trace::new(workload, *seed)).collect();
        traces.iter().zip(seeds).for_each(|(trace, seed)| report::trace(workload, *seed, trace));
        cells.extend(contest::run(workload.name, &traces, capacities, &entries));
    }
    report::summary(&entries, &cells);
    report::details(&entries, &cells);
}
