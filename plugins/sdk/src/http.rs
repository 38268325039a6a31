//! Outgoing requests, to what the mount allows (`grants.http`). A call waits for the answer, and
//! no redirect is followed.

use serde::de::DeserializeOwned;

pub use crate::bindings::imports::pierhead::plugin::http::{HttpError, Request, Response};
use crate::{Failure, host};

/// Asks for a document.
///
/// # Errors
/// When there is no answer. A status that is an error is an answer.
pub fn get(url: &str) -> Result<Response, HttpError> {
    Request::new("GET", url).send()
}

impl Request {
    /// A request without headers and without a body.
    #[must_use]
    pub fn new(method: &str, url: &str) -> Self {
        Self { method: method.to_owned(), url: url.to_owned(), headers: Vec::new(), body: None }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body, and what it is.
    #[must_use]
    pub fn with_body(mut self, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self.header("content-type", media_type)
    }

    /// Sends it and waits for the answer.
    ///
    /// # Errors
    /// When there is no answer. A status that is an error is an answer.
    pub fn send(&self) -> Result<Response, HttpError> {
        host::http::send(self)
    }
}

impl Response {
    /// The value of a header, whose name is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the status is one of success.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The body, from JSON.
    ///
    /// # Errors
    /// When the status is not one of success, or the body is not this JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if !self.is_success() {
            return Err(Failure::unavailable(format!("the answer's status is {}", self.status)));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::unavailable(format!("the answer makes no sense: {error}")))
    }
}
