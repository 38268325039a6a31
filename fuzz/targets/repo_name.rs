//! What parses as a repository name displays as it was, and cannot leave its place in a path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::RepoName;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<RepoName>() {
        assert_eq!(name.as_str(), text);
        assert!(text.split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
        assert!(text.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
    }
});
