//! An upstream's error, written out again, is the same error, short and on one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::ErrorBody;

fuzz_target!(|body: &[u8]| {
    let parsed = ErrorBody::parse(body);
    assert!(parsed.errors.len() <= 16);
    for error in &parsed.errors {
        assert!(error.message.len() <= 1024 && !error.message.contains(|c: char| c.is_control()));
    }
    assert_eq!(ErrorBody::parse(&parsed.to_json()), parsed);
});
