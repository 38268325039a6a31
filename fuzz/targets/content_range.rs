//! What parses as a Content-Range is consistent, and reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::ContentRange;

fuzz_target!(|value: &str| {
    let Some(range) = ContentRange::parse(value) else { return };
    assert_eq!(ContentRange::parse(&range.to_string()), Some(range));
    if let ContentRange::Part { span, size } = range {
        assert!(span.start < span.end_exclusive);
        assert!(size.is_none_or(|size| span.end_exclusive <= size));
    }
});
