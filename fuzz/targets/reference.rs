//! What parses as a tag or digest displays as it was, and is what its colon says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
        assert_eq!(matches!(reference, Reference::Digest(_)), text.contains(':'));
        assert!(!text.contains(['/', '\0']) && !text.starts_with('.'));
    }
});
