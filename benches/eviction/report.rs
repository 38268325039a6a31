//! The tables, as markdown.

use crate::cache::{Outcome, Unit};
use crate::contest::{Cell, Entry};
use crate::trace::{Trace, Workload};

struct Metric {
    name: &'static str,
    of: fn(&Outcome) -> f64,
    decimals: usize,
}

const METRICS: [Metric; 4] = [
    Metric {
        name: "complete: pulls that needed nothing from upstream",
        of: |o| o.complete as f64 / o.pulls as f64,
        decimals: 3,
    },
    Metric {
        name: "bytes: hit ratio by bytes",
        of: |o| o.byte_hits as f64 / o.bytes as f64,
        decimals: 3,
    },
    Metric {
        name: "objects: hit ratio by requests",
        of: |o| o.object_hits as f64 / o.objects as f64,
        decimals: 3,
    },
    Metric {
        name: "upstream: requests upstream for each pull",
        of: |o| o.upstream_requests as f64 / o.pulls as f64,
        decimals: 2,
    },
];

const fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Blob => "blob",
        Unit::Credited => "credited blob",
        Unit::Image => "image",
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

pub(crate) fn trace_header() {
    println!(
        "| workload | seed | pulls | looks | blobs | footprint | top 1 % of blobs | requests below 1 MB | below 10 MB | asked once |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

/// What a trace came out as, to be held against the sources of its numbers.
pub(crate) fn trace(workload: Workload, seed: u64, trace: &Trace) {
    let requests = trace.requests();
    let all: u64 = requests.iter().sum();
    let below = |bytes| {
        let small = requests.iter().zip(&trace.sizes).filter(|(_, size)| **size < bytes);
        small.map(|(n, _)| n).sum::<u64>() as f64 / all as f64
    };
    let mut most: Vec<u64> = requests.iter().copied().filter(|n| *n > 0).collect();
    most.sort_unstable_by(|a, b| b.cmp(a));
    let top: u64 = most[..most.len() / 100].iter().sum();
    let once = most.iter().filter(|n| **n == 1).count();
    let pulls = trace.events.iter().filter(|event| event.is_pull()).count();
    println!(
        "| {} | {seed} | {pulls} | {} | {} | {} GB | {:.2} | {:.2} | {:.2} | {:.2} |",
        workload.name,
        trace.events.len() - pulls,
        most.len(),
        trace.footprint() / 1_000_000_000,
        top as f64 / all as f64,
        below(1_000_000),
        below(10_000_000),
        once as f64 / most.len() as f64,
    );
}

/// One line for each entry: the means over all workloads and sizes, the best first. Seeds differ
/// more than policies do, so the noise is that of the difference from one policy on the same seed.
pub(crate) fn summary(entries: &[Entry], cells: &[Cell]) {
    let base = entries.iter().position(|entry| entry.name == "LRU" && entry.unit == Unit::Image);
    let base = base.expect("LRU takes part");
    println!(
        "\nMeans over all workloads and sizes. Gain: in complete, over LRU by image, by seed.\n"
    );
    println!("| policy | unit | complete | gain | bytes | objects | upstream |");
    println!("|---|---|---|---|---|---|---|");
    let by_seed = |entry: usize, metric: &Metric| -> Vec<f64> {
        (0..cells[0].outcomes[entry].len())
            .map(|seed| mean(cells.iter().map(|cell| (metric.of)(&cell.outcomes[entry][seed]))))
            .collect()
    };
    let base = by_seed(base, &METRICS[0]);
    let mut rows: Vec<(f64, String)> = entries
        .iter()
        .enumerate()
        .map(|(n, entry)| {
            let mut row = format!("| {} | {} |", entry.name, unit_name(entry.unit));
            let mut complete = 0.0;
            for (place, metric) in METRICS.iter().enumerate() {
                let values = by_seed(n, metric);
                row.push_str(&format!(" {:.*} |", metric.decimals, mean(values.iter().copied())));
                if place == 0 {
                    complete = mean(values.iter().copied());
                    let gains = values.iter().zip(&base).map(|(own, lru)| own - lru);
                    let low = gains.clone().fold(f64::INFINITY, f64::min);
                    let high = gains.fold(f64::NEG_INFINITY, f64::max);
                    row.push_str(&format!(" {low:+.3} to {high:+.3} |"));
                }
            }
            (complete, row)
        })
        .collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    rows.iter().for_each(|(_, row)| println!("{row}"));
}

/// A table for each metric, with a column for each workload and size.
pub(crate) fn details(entries: &[Entry], cells: &[Cell]) {
    for metric in METRICS {
        println!("\n{}\n", metric.name);
        print!("| policy | unit |");
        cells.iter().for_each(|cell| print!(" {} {} % |", cell.workload, cell.capacity * 100.0));
        println!("\n|---|---|{}", "---|".repeat(cells.len()));
        for (n, entry) in entries.iter().enumerate() {
            print!("| {} | {} |", entry.name, unit_name(entry.unit));
            for cell in cells {
                let value = mean(cell.outcomes[n].iter().map(metric.of));
                print!(" {value:.*} |", metric.decimals);
            }
            println!();
        }
    }
}
