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
                if !hop.is_empty() {
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

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (CDN_LOOP, HeaderValue::from_static(value))).collect()
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
        let hops = us.check(&headers(&["one , two;p=1", "three"])).expect("no loop");
        assert_eq!(us.header(&hops), "one, two;p=1, three, pierhead-a1");
        assert_eq!(us.header(&Hops::default()), "pierhead-a1");
    }

    #[test]
    fn a_list_without_end_is_a_loop() {
        let us = LoopId::new("a1").expect("an id");
        assert_eq!(us.check(&headers(&["a,b,c,d,e,f,g,h,i"])), Err(LoopDetected));
    }

    #[test]
    fn an_id_is_a_token() {
        for bad in ["", "a,b", "a b", "ä"] {
            assert_eq!(LoopId::new(bad), Err(InstanceIdError), "{bad}");
        }
    }
}
