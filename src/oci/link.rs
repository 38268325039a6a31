//! The `Link` header: where the next page of a list is.
//!
//! Source: RFC 8288 section 3; OCI distribution-spec, "Listing Tags" and "Listing Referrers".

use super::scan::Scan;

/// The longest header value that is read, in bytes. Longer ones count as not there.
pub const LINK_BYTES_MAX: usize = 8 * 1024;

/// The target of the first link of relation `next` in the values of all `Link` headers of an
/// answer: a relative or absolute URI reference, as text that nothing has checked.
pub fn next_link<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    values.into_iter().filter(|value| value.len() <= LINK_BYTES_MAX).find_map(next_in)
}

/// A header's value that says where the next page is.
pub fn format_next_link(target: &str) -> String {
    let mut value = String::from("<");
    for c in target.chars() {
        // What would end the target early, or cannot stand in a header.
        if matches!(c, '<' | '>' | ' ') || !c.is_ascii() || c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                value.push_str(&format!("%{byte:02X}"));
            }
        } else {
            value.push(c);
        }
    }
    value.push_str(">; rel=\"next\"");
    value
}

fn next_in(value: &str) -> Option<&str> {
    let mut scan = Scan::new(value);
    loop {
        scan.take_while(|c| matches!(c, ',' | ' ' | '\t'));
        if !scan.eat('<') {
            return None;
        }
        let target = scan.take_while(|c| c != '>');
        if !scan.eat('>') || target.contains(|c: char| c.is_control()) {
            return None;
        }
        let target = target.trim();
        if is_next(&mut scan)? && !target.is_empty() {
            return Some(target);
        }
    }
}

/// Reads a link's parameters, and tells whether its relation is `next`. Nothing if they do not
/// make sense.
fn is_next(scan: &mut Scan<'_>) -> Option<bool> {
    let mut relation = None;
    let mut elsewhere = false;
    loop {
        scan.skip_space();
        if !scan.eat(';') {
            break;
        }
        scan.skip_space();
        let name = scan.token().to_ascii_lowercase();
        scan.skip_space();
        let value = if scan.eat('=') {
            scan.skip_space();
            scan.parameter_value(&[',', ';'])?
        } else {
            String::new()
        };
        match name.as_str() {
            // Of several, only the first counts.
            "rel" if relation.is_none() => relation = Some(value),
            // The link is about another resource than the list.
            "anchor" => elsewhere = true,
            _ => {}
        }
    }
    if !matches!(scan.peek(), None | Some(',')) {
        return None;
    }
    let is_next = |relations: String| {
        relations.split_ascii_whitespace().any(|r| r.eq_ignore_ascii_case("next"))
    };
    Some(!elsewhere && relation.is_some_and(is_next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn next(value: &str) -> Option<&str> {
        next_link([value])
    }

    #[test]
    fn registries() {
        for value in [
            r#"</v2/a/tags/list?last=b&n=1>; rel="next""#,
            r#"</v2/a/tags/list?last=b&n=1>; rel=next"#,
            r#"</v2/a/tags/list?last=b&n=1>;REL="NEXT""#,
            r#" , < /v2/a/tags/list?last=b&n=1 > ; title="a, b; \"c\"" ; rel = "prev next" "#,
            r#"</x>; rel="prev", </v2/a/tags/list?last=b&n=1>; rel="next", </y>; rel="next""#,
            r#"</x>, </v2/a/tags/list?last=b&n=1>; flag; rel="next"; rel="prev""#,
        ] {
            assert_eq!(next(value), Some("/v2/a/tags/list?last=b&n=1"), "{value}");
        }
        let absolute = "https://a.example/v2/b/tags/list?n=1,2;3&last=c";
        assert_eq!(next(&format!(r#"<{absolute}>; rel="next""#)), Some(absolute));
        assert_eq!(next_link([r#"</x>; rel="first""#, r#"</y>; rel="next""#]), Some("/y"));
    }

    #[test]
    fn none() {
        for value in [
            "",
            "</x>",
            r#"</x>; rel="prev""#,
            r#"</x>; rel="nextish""#,
            r#"</x; rel="next""#,
            r#"/x; rel="next""#,
            r#"<>; rel="next""#,
            r#"</x>; rel="next"#,
            r#"</x> rel="next""#,
            r#"</x>; rel="prev"; rel="next""#,
            r##"</x>; rel="next"; anchor="#a""##,
            "</x\r\ny>; rel=next",
        ] {
            assert_eq!(next(value), None, "{value}");
        }
        assert_eq!(next(&format!("<{}>; rel=next", "a".repeat(LINK_BYTES_MAX))), None);
    }

    #[test]
    fn formatted() {
        assert_eq!(
            format_next_link("/v2/a/tags/list?n=2&last=b"),
            r#"</v2/a/tags/list?n=2&last=b>; rel="next""#
        );
        assert_eq!(format_next_link("/a>b\n\u{e4}"), r#"</a%3Eb%0A%C3%A4>; rel="next""#);
    }

    proptest! {
        #[test]
        fn formatted_parses_back(target in "/[!-;=?-~]{0,40}") {
            let formatted = format_next_link(&target);
            prop_assert_eq!(next(&formatted), Some(target.as_str()));
        }

        #[test]
        fn never_panics(value in "[<>a-c;,=\" ]{0,40}|<[a-c]{1,3}>; *rel=\"?next[\", ]?|\\PC*") {
            if let Some(target) = next(&value) {
                let formatted = format_next_link(target);
                let again = next(&formatted);
                prop_assert_eq!(again.map(format_next_link), Some(formatted.clone()));
            }
        }
    }
}
