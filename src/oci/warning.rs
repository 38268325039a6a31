//! The `Warning` header, which containerd, oras and podman print to their users.
//!
//! Source: OCI distribution-spec, section "Warnings".

use http::HeaderValue;

/// The most bytes of warnings in one answer. One warning is kept within that.
pub const WARNING_BYTES_MAX: usize = 4096;

const START: &str = "299 - \"";

/// A warning as a header's value: `299 - "text"`. Control characters are left out, and a text that
/// is too long ends early, at a whole character.
pub fn format_warning(text: &str) -> HeaderValue {
    let mut value = String::from(START);
    for c in text.chars().filter(|c| !c.is_control()) {
        let escape = if matches!(c, '"' | '\\') { "\\" } else { "" };
        if value.len() + escape.len() + c.len_utf8() + 1 > WARNING_BYTES_MAX {
            break;
        }
        value.push_str(escape);
        value.push(c);
    }
    value.push('"');
    // Without control characters, every text is a header's value.
    HeaderValue::from_bytes(value.as_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static("299 - \"\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::scan::Scan;
    use super::*;

    fn text(warning: &HeaderValue) -> String {
        let value = std::str::from_utf8(warning.as_bytes()).unwrap();
        let mut scan = Scan::new(value.strip_prefix("299 - ").unwrap());
        let text = scan.parameter_value(&[]).unwrap();
        assert_eq!(scan.peek(), None);
        text
    }

    #[test]
    fn examples() {
        assert_eq!(format_warning("served stale"), "299 - \"served stale\"");
        assert_eq!(format_warning("a \"b\" \\ c\r\n\u{7f}d"), "299 - \"a \\\"b\\\" \\\\ cd\"");
        assert_eq!(format_warning(""), "299 - \"\"");
    }

    #[test]
    fn long_texts_end_at_a_whole_character() {
        for long in ["a".repeat(9999), "\u{20ac}".repeat(9999), "\"".repeat(9999)] {
            let warning = format_warning(&long);
            assert!(warning.len() <= WARNING_BYTES_MAX);
            assert!(warning.len() > WARNING_BYTES_MAX - 4);
            assert!(long.starts_with(&text(&warning)));
        }
    }

    proptest! {
        #[test]
        fn reads_back(input in any::<String>()) {
            let warning = format_warning(&input);
            prop_assert!(warning.len() <= WARNING_BYTES_MAX);
            let plain: String = input.chars().filter(|c| !c.is_control()).collect();
            prop_assert!(plain.starts_with(&text(&warning)));
        }
    }
}
