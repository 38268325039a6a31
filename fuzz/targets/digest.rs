//! What parses as a digest displays as it was, and verifies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::Digest;

fuzz_target!(|text: &str| {
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert_eq!(format!("{}:{}", digest.algorithm(), digest.encoded()), text);
    }
    let digest = Digest::sha256(text.as_bytes());
    assert_eq!(digest.to_string().parse(), Ok(digest));
});
