//! Ranges display as ranges that mean the same, and resolve to parts that lie inside.
//! The first eight bytes are the size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::{ByteRanges, Resolved};

fuzz_target!(|input: (u64, &str)| {
    let (size, value) = input;
    let Some(ranges) = ByteRanges::parse(value) else { return };
    assert_eq!(ByteRanges::parse(&ranges.to_string()), Some(ranges.clone()));
    assert!(!ranges.is_open_ended() || ranges.single().is_some());
    if let Resolved::Satisfiable(spans) = ranges.resolve(size) {
        assert!(!spans.is_empty() && spans.len() <= ranges.specs().len());
        assert!(spans.iter().all(|s| s.start < s.end_exclusive && s.end_exclusive <= size));
        assert!(spans.iter().map(|s| u128::from(s.len())).sum::<u128>() <= size.into());
    }
});
