//! What a Content-Type is read as reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::MediaType;

fuzz_target!(|header: &str| {
    if let Ok(media_type) = MediaType::from_content_type(header) {
        assert_eq!(MediaType::from_content_type(media_type.as_str()), Ok(media_type.clone()));
        assert_eq!(media_type.as_str().parse(), Ok(media_type));
    }
    if let Ok(media_type) = header.parse::<MediaType>() {
        assert_eq!(media_type.as_str(), header);
    }
});
