//! base64url without padding (RFC 7515, section 2).

/// Bytes of a text; none if it is anything else.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let mut bits = 0_u32;
    let mut count = 0;
    for digit in text.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    // What is left over is less than a digit, and zeros: one text for the same bytes.
    (count < 6 && bits & ((1 << count) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_text_of_bytes_is_read() {
        for (text, bytes) in [
            ("", Some(vec![])),
            ("AQAB", Some(vec![1, 0, 1])),
            ("_-8", Some(vec![0xff, 0xef])),
            ("AA", Some(vec![0])),
            ("AB", None),
            ("A", None),
            ("AAAAA", None),
            ("AA==", None),
            ("+/", None),
            ("A A", None),
        ] {
            assert_eq!(decode(text), bytes, "{text}");
        }
    }
}
