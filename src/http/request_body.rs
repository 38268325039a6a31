//! Bodies of requests: forms, which are small; and those that nobody reads, because nothing is
//! pushed to this version, but clients may send something all the same.
//!
//! Of the latter a little is read away, so that the connection can take the next request. Of what is larger or
//! slower nothing more is read, and the connection ends with the answer.

use std::time::Duration;

use bytes::{Buf, BufMut as _};
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

/// How much of a request's body is read away, in bytes.
pub const DISCARD_BYTES_MAX: u64 = 64 << 10;

/// How long that may take: the answer waits for it.
pub const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// The largest form, in bytes: a token of somebody else's fits, and little more.
pub const FORM_BYTES_MAX: usize = 16 << 10;

/// How long a form may take to arrive.
pub const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a form cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// It is too large.
    #[error("a form has at most {FORM_BYTES_MAX} bytes")]
    TooLarge,
    /// It did not come in time.
    #[error("the form did not arrive within {} s", FORM_TIMEOUT.as_secs())]
    TimedOut,
    /// The client broke off.
    #[error("the form broke off")]
    BrokeOff,
}

/// Reads a form to its end.
///
/// # Errors
/// When it is too large, too slow, or breaks off.
pub async fn read_form<B: Body + Unpin>(body: &mut B) -> Result<Vec<u8>, FormError> {
    let whole = async {
        let mut form = Vec::new();
        if body.size_hint().lower() > FORM_BYTES_MAX as u64 {
            return Err(FormError::TooLarge);
        }
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| FormError::BrokeOff)?.into_data() else { continue };
            if form.len() + data.remaining() > FORM_BYTES_MAX {
                return Err(FormError::TooLarge);
            }
            form.put(data);
        }
        Ok(form)
    };
    timeout(FORM_TIMEOUT, whole).await.unwrap_or(Err(FormError::TimedOut))
}

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
    async fn forms_are_read_to_their_end_or_not_at_all() {
        let full = |bytes: usize| Full::new(Bytes::from(vec![b'a'; bytes]));
        assert_eq!(read_form(&mut Empty::<Bytes>::new()).await, Ok(Vec::new()));
        let most = vec![b'a'; FORM_BYTES_MAX];
        assert_eq!(read_form(&mut full(FORM_BYTES_MAX)).await, Ok(most));
        assert_eq!(read_form(&mut full(FORM_BYTES_MAX + 1)).await, Err(FormError::TooLarge));
        let piece = || Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; FORM_BYTES_MAX])));
        let mut endless = StreamBody::new(stream::repeat_with(piece));
        assert_eq!(read_form(&mut endless).await, Err(FormError::TooLarge));
        let broken = stream::once(std::future::ready(Err::<Frame<Bytes>, _>("reset")));
        assert_eq!(read_form(&mut StreamBody::new(broken)).await, Err(FormError::BrokeOff));
        let never = stream::once(pending::<Result<Frame<Bytes>, Infallible>>());
        let mut never = StreamBody::new(Box::pin(never));
        assert_eq!(read_form(&mut never).await, Err(FormError::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_not_waited_for() {
        let began = tokio::time::Instant::now();
        let never = stream::once(pending::<Result<Frame<Bytes>, Infallible>>());
        assert!(!discarded(Claiming(StreamBody::new(Box::pin(never)), 10)).await);
        assert_eq!(began.elapsed(), DISCARD_TIMEOUT);
    }
}
