//! How Pierhead recognises its own requests when they come back to it.
//!
//! Source: RFC 8586, the `CDN-Loop` header field. Two Pierheads that name each other as upstream
//! would otherwise wait for one another until a timeout.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// `CDN-Loop`.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// The most hops that a request may have behind it; further ones count as a loop.
pub const HOPS_MAX: usize = 8;

/// The longest `CDN-Loop` list that is passed on, in bytes; a longer one counts as a loop.
pub const HOPS_BYTES_MAX: usize = 1024;

/// The longest instance id, in bytes.
pub const INSTANCE_ID_BYTES_MAX: usize = 64;

/// An instance id cannot stand in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an instance id has 1 to {INSTANCE_ID_BYTES_MAX} letters, digits or '-'")]
pub struct InstanceIdError;

/// How every Pierhead begins its name.
const OWN_PREFIX: &[u8] = b"pierhead-";

/// What this process calls itself towards upstreams: `pierhead-<instance id>`.
#[derive(Clone, PartialEq, Eq)]
pub struct LoopId(HeaderValue);

/// Where a request has been before it came here: the `CDN-Loop` of a client's request, to be
/// passed on with what it causes upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hops(Option<HeaderValue>);

/// The request passed through this process before, or through too many others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request came back to where it started: an upstream leads to this server")]
pub struct LoopDetected;

impl LoopId {
    /// The identity of the process `instance`; chosen at random at start.
    pub fn new(instance: &str) -> Result<Self, InstanceIdError> {
        let fits = (1..=INSTANCE_ID_BYTES_MAX).contains(&instance.len())
            && instance.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !fits {
            return Err(InstanceIdError);
        }
        HeaderValue::try_from(format!("pierhead-{instance}")).map(Self).map_err(|_| InstanceIdError)
    }

    /// What a request that came in says about where it has been; an error if it was here.
    pub fn check(&self, headers: &HeaderMap) -> Result<Hops, LoopDetected> {
        let mut hops = Vec::new();
        for value in headers.get_all(CDN_LOOP) {
            for hop in value.as_bytes().split(|b| *b == b',') {
                let hop = hop.trim_ascii();
                let id = hop.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
                if id.eq_ignore_ascii_case(self.0.as_bytes()) {
                    return Err(LoopDetected);
                }
                // Only our own kind is passed on: what a stranger writes here must not decide
                // how upstream's network treats a request that others wait for, too.
                let ours = id.get(..OWN_PREFIX.len());
                if ours.is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX)) {
                    hops.push(hop);
                }
            }
        }
        if hops.is_empty() {
            return Ok(Hops(None));
        }
        let joined = hops.join(&b", "[..]);
        if hops.len() > HOPS_MAX || joined.len() > HOPS_BYTES_MAX {
            return Err(LoopDetected);
        }
        // It came out of a header, so it fits into one.
        Ok(Hops(HeaderValue::from_bytes(&joined).ok()))
    }

    /// The header for a request that follows after `hops`.
    pub(super) fn header(&self, hops: &Hops) -> HeaderValue {
        let Hops(Some(before)) = hops else { return self.0.clone() };
        let joined = [before.as_bytes(), self.0.as_bytes()].join(&b", "[..]);
        HeaderValue::from_bytes(&joined).unwrap_or_else(|_| self.0.clone())
    }
}

impl fmt::Debug for LoopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoopId({})", String::from_utf8_lossy(self.0.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let value = |value: &&str| HeaderValue::from_str(value).expect("a value");
        values.iter().map(|v| (CDN_LOOP, value(v))).collect()
    }

    #[test]
    fn a_request_that_was_here_is_recognised() {
        let us = LoopId::new("a1").expect("an id");
        assert_eq!(us.check(&headers(&[])), Ok(Hops::default()));
        assert!(us.check(&headers(&["fastly", "pierhead-a2, cloud; v=1"])).is_ok());
        for seen in ["pierhead-a1", "x, pierhead-a1;v=1", "PIERHEAD-A1", " pierhead-a1 ,y"] {
            assert_eq!(us.check(&headers(&[seen])), Err(LoopDetected), "{seen}");
        }
        // Our id as a part of another one is somebody else.
        assert!(us.check(&headers(&["pierhead-a11, xpierhead-a1"])).is_ok());
    }

    #[test]
    fn hops_are_passed_on_in_order() {
        let us = LoopId::new("a1").expect("an id");
        let hops = us.check(&headers(&["pierhead-b , x, pierhead-c;p=1", "pierhead-d"]));
        let hops = hops.expect("no loop");
        let expected = "pierhead-b, pierhead-c;p=1, pierhead-d, pierhead-a1";
        assert_eq!(us.header(&hops), expected, "strangers are left out");
        assert_eq!(us.header(&Hops::default()), "pierhead-a1");
    }

    #[test]
    fn a_list_without_end_is_a_loop() {
        let many = ["pierhead-x"; HOPS_MAX + 1].join(",");
        let us = LoopId::new("a1").expect("an id");
        assert_eq!(us.check(&headers(&[&many])), Err(LoopDetected));
    }

    #[test]
    fn an_id_is_a_token() {
        for bad in ["", "a,b", "a b", "ä"] {
            assert_eq!(LoopId::new(bad), Err(InstanceIdError), "{bad}");
        }
    }
}
