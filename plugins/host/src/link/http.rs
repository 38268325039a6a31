//! Outgoing requests.

use std::sync::Arc;

use crate::outside::HttpTerms;
use crate::state::State;
use crate::wit::imports::http::{Host, HttpError, Request, Response};

/// Headers of an answer that a guest is told, at most.
const ANSWER_HEADERS_MAX: usize = 256;

/// All of their names and values, in bytes, at most.
const ANSWER_HEADER_BYTES_MAX: usize = 64 << 10;

impl Host for State {
    async fn send(&mut self, request: Request) -> wasmtime::Result<Result<Response, HttpError>> {
        self.called();
        Ok(self.sent(request).await)
    }
}

impl State {
    async fn sent(&mut self, request: Request) -> Result<Response, HttpError> {
        let denied = |why: &str| Err(HttpError::Denied(why.to_owned()));
        if self.is_configuring() {
            return denied("nothing can be sent during configure: send it in the first call");
        }
        let mount = Arc::clone(&self.mount);
        let Some(grant) = &mount.grants().http else {
            return denied("the mount has no grants.http");
        };
        let request = grant.accept(request)?;
        match self.http_calls_left.checked_sub(1) {
            Some(left) => self.http_calls_left = left,
            None => return denied("the call has sent as many requests as its mount may"),
        }
        let terms = HttpTerms {
            mount: mount.spec.name.clone(),
            timeout: grant.timeout,
            body_bytes_max: grant.max_body,
            private_addresses: grant.private_addresses,
        };
        // The grant's time is kept here as well, whoever answers.
        let answer = mount.outside.http.send(request, terms);
        match tokio::time::timeout(grant.timeout, answer).await {
            Ok(answer) => accepted(answer?, grant.max_body),
            Err(_) => Err(HttpError::Timeout),
        }
    }
}

fn accepted(mut answer: Response, body_bytes_max: u64) -> Result<Response, HttpError> {
    if answer.body.len() as u64 > body_bytes_max {
        return Err(HttpError::TooLarge(body_bytes_max));
    }
    let bytes: usize = answer.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if answer.headers.len() > ANSWER_HEADERS_MAX || bytes > ANSWER_HEADER_BYTES_MAX {
        return Err(HttpError::TooLarge(ANSWER_HEADER_BYTES_MAX as u64));
    }
    for (name, _) in &mut answer.headers {
        name.make_ascii_lowercase();
    }
    Ok(answer)
}
