//! What parses as the name of an upstream displays as it was, and can only be a host and port.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::scope::UpstreamName;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<UpstreamName>() {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(['/', '@', '?', '#', '%', '\\', ' ']) && !text.contains(".."));
    }
});
