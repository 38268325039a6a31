//! The challenges of an answer, written out again, are the same challenges. Lines of the input
//! are header values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::Challenge;

fuzz_target!(|input: &str| {
    let challenges = Challenge::parse_all(input.split('\n'));
    let apart: Vec<String> = challenges.iter().map(ToString::to_string).collect();
    if apart.iter().all(|value| value.len() <= 8192) {
        assert_eq!(Challenge::parse_all(apart.iter().map(String::as_str)), challenges);
    }
    let together = apart.join(", ");
    if together.len() <= 8192 {
        assert_eq!(Challenge::parse_all([together.as_str()]), challenges);
    }
});
