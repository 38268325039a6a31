//! The next page's address survives being written out again. Lines of the input are header values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::{format_next_link, next_link};

fuzz_target!(|input: &str| {
    let Some(target) = next_link(input.split('\n')) else { return };
    assert!(!target.is_empty() && !target.contains(|c: char| c.is_control()));
    let written = format_next_link(target);
    assert!(written.is_ascii());
    if written.len() <= 8192 {
        let again = next_link([written.as_str()]).expect("what was written reads back");
        assert_eq!(format_next_link(again), written);
    }
});
