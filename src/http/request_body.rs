//! Bodies of requests that nobody reads: nothing is pushed to this version, but clients may send
//! something all the same.
//!
//! A little is read away, so that the connection can take the next request. Of what is larger or
//! slower nothing more is read, and the connection ends with the answer.

use std::time::Duration;

use bytes::Buf;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

/// How much of a request's body is read away, in bytes.
pub const DISCARD_BYTES_MAX: u64 = 64 << 10;

/// How long that may take: the answer waits for it.
pub const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads the body of a request with these headers away; tells whether it came to its end.
pub async fn discard<B: Body + Unpin>(headers: &HeaderMap, body: B) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // Reading would tell a client that asks first to go on. What announces itself as large, or
    // not at all, is not begun with.
    let is_small = body.size_hint().upper().is_some_and(|bytes| bytes <= DISCARD_BYTES_MAX);
    if headers.contains_key(EXPECT) || !is_small {
        return false;
    }
    timeout(DISCARD_TIMEOUT, read_away(body)).await.unwrap_or(false)
}

async fn read_away<B: Body + Unpin>(mut body: B) -> bool {
    let mut left = DISCARD_BYTES_MAX;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let bytes = frame.data_ref().map_or(0, |data| data.remaining() as u64);
        let Some(rest) = left.checked_sub(bytes) else { return false };
        left = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use bytes::Bytes;
    use futures_util::stream;
    use http::HeaderValue;
    use http_body::{Frame, SizeHint};
    use http_body_util::{Empty, Full, StreamBody};

    use super::*;

    /// A body of a size that it claims.
    struct Claiming<B>(B, u64);

    impl<B: Body + Unpin> Body for Claiming<B> {
        type Data = B::Data;
        type Error = B::Error;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
            std::pin::Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1)
        }
    }

    async fn discarded<B: Body + Unpin>(body: B) -> bool {
        discard(&HeaderMap::new(), body).await
    }

    #[tokio::test]
    async fn what_is_small_is_read_away() {
        assert!(discarded(Empty::<Bytes>::new()).await);
        assert!(discarded(Full::new(Bytes::from(vec![0; DISCARD_BYTES_MAX as usize]))).await);
        assert!(!discarded(Full::new(Bytes::from(vec![0; DISCARD_BYTES_MAX as usize + 1]))).await);
    }

    #[tokio::test]
    async fn who_asks_first_is_not_told_to_go_on() {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        assert!(!discard(&headers, Full::new(Bytes::from_static(b"small"))).await);
        assert!(discard(&headers, Empty::<Bytes>::new()).await);
    }

    #[tokio::test]
    async fn what_lies_about_its_size_or_does_not_tell_it_is_left() {
        let much = || {
            let chunk = || Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; 40 << 10])));
            StreamBody::new(stream::iter([chunk(), chunk()]))
        };
        assert!(!discarded(Claiming(much(), 10)).await);
        assert!(!discarded(much()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_not_waited_for() {
        let began = tokio::time::Instant::now();
        let never = stream::once(pending::<Result<Frame<Bytes>, Infallible>>());
        assert!(!discarded(Claiming(StreamBody::new(Box::pin(never)), 10)).await);
        assert_eq!(began.elapsed(), DISCARD_TIMEOUT);
    }
}
