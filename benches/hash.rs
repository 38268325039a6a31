//! How fast content is hashed on its way through: `cargo bench --bench hash`.
//!
//! Every byte of a fill passes the hasher once, on one thread, in chunks of about this size. Where
//! the processor has SHA instructions that must not be slower than 1 GB/s, or it is the limit of a
//! cold pull.

#![allow(missing_docs, clippy::print_stdout, reason = "a benchmark is a program that prints")]

use std::hint::black_box;
use std::process::ExitCode;

use pierhead::oci::{Algorithm, Hasher};
use tokio::time::Instant;

/// What one read of a connection brings.
const CHUNK_BYTES: usize = 64 * 1024;
const TOTAL_BYTES: usize = 256 << 20;
const ROUNDS: usize = 5;
/// For SHA-256, where the processor has instructions for it.
const GB_PER_SECOND_MIN: f64 = 1.0;

fn main() -> ExitCode {
    let chunk: Vec<u8> = (0..CHUNK_BYTES).map(|n| (n * 31 % 251) as u8).collect();
    let mut slow = false;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let rates = (0..ROUNDS).map(|_| {
            let mut hasher = Hasher::new(algorithm);
            let began = Instant::now();
            for _ in 0..TOTAL_BYTES / CHUNK_BYTES {
                hasher.update(black_box(&chunk));
            }
            black_box(hasher.finish());
            TOTAL_BYTES as f64 / 1e9 / began.elapsed().as_secs_f64()
        });
        // The best round is what the code can do; the others shared the processor.
        let best = rates.fold(0.0, f64::max);
        println!("{algorithm}: {best:.2} GB/s on one core, in chunks of 64 KiB");
        slow |= algorithm == Algorithm::Sha256 && best < GB_PER_SECOND_MIN;
    }
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let accelerated = info.split_whitespace().any(|flag| flag == "sha_ni" || flag == "sha2");
    if slow && accelerated {
        println!("sha256 is slower than {GB_PER_SECOND_MIN} GB/s in spite of SHA instructions");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
