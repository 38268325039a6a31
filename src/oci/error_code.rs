//! The error codes of the registry API, and the JSON that carries them.
//!
//! Source: OCI distribution-spec, section "Error Codes"; `UNKNOWN` and `UNAVAILABLE` are docker's,
//! and clients know them.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest error body of an upstream that is read, in bytes.
pub const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// The most errors that are kept of one body.
pub const ERRORS_MAX: usize = 16;

/// The longest message that is kept of an upstream, in bytes.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 1024;

/// What went wrong, in the registry API's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// Blob unknown to registry.
    BlobUnknown,
    /// Blob upload invalid.
    BlobUploadInvalid,
    /// Blob upload unknown to registry.
    BlobUploadUnknown,
    /// Provided digest did not match uploaded content.
    DigestInvalid,
    /// Manifest references a manifest or blob unknown to registry.
    ManifestBlobUnknown,
    /// Manifest invalid.
    ManifestInvalid,
    /// Manifest unknown to registry.
    ManifestUnknown,
    /// Invalid repository name.
    NameInvalid,
    /// Repository name not known to registry.
    NameUnknown,
    /// Provided length did not match content length.
    SizeInvalid,
    /// Authentication required.
    Unauthorized,
    /// Requested access to the resource is denied.
    Denied,
    /// The operation is unsupported.
    Unsupported,
    /// Too many requests.
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    /// The service is unavailable; docker's.
    Unavailable,
    /// Any other error; docker's.
    Unknown,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 16] = [
        Self::BlobUnknown,
        Self::BlobUploadInvalid,
        Self::BlobUploadUnknown,
        Self::DigestInvalid,
        Self::ManifestBlobUnknown,
        Self::ManifestInvalid,
        Self::ManifestUnknown,
        Self::NameInvalid,
        Self::NameUnknown,
        Self::SizeInvalid,
        Self::Unauthorized,
        Self::Denied,
        Self::Unsupported,
        Self::TooManyRequests,
        Self::Unavailable,
        Self::Unknown,
    ];

    /// The code as it stands in the JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `{"errors":[...]}`, the body of every answer that is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// What went wrong; upstreams may name several things, or nothing.
    pub errors: Vec<ErrorEntry>,
}

/// One error of an [`ErrorBody`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorEntry {
    /// The code that programs read.
    pub code: ErrorCode,
    /// The sentence that people read.
    pub message: String,
    /// Anything more; [`Value::Null`] is left out.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

impl ErrorBody {
    /// A body with one error and no detail.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let entry = ErrorEntry { code, message: message.into(), detail: Value::Null };
        Self { errors: vec![entry] }
    }

    /// The JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Text and JSON values always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what an upstream sent with an error status, which may be anything: HTML, plain text,
    /// the JSON of a token server. What is not understood is left out, details always are.
    ///
    /// An unknown code becomes [`ErrorCode::Unknown`].
    pub fn parse(body: &[u8]) -> Self {
        if body.len() > ERROR_BODY_BYTES_MAX {
            return Self::default();
        }
        let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
            return Self::default();
        };
        let errors = match body.get("errors") {
            Some(Value::Array(errors)) => errors.iter().filter_map(ErrorEntry::read).collect(),
            // Token servers: docker's says `details`, OAuth 2 (RFC 6749 section 5.2) the others.
            _ => ["error_description", "details", "message", "error"]
                .iter()
                .filter_map(|key| body.get(*key).and_then(Value::as_str).map(clean))
                .find(|message| !message.is_empty())
                .map(|message| ErrorEntry {
                    code: ErrorCode::Unknown,
                    message,
                    detail: Value::Null,
                })
                .into_iter()
                .collect::<Vec<_>>(),
        };
        let mut body = Self { errors };
        body.errors.truncate(ERRORS_MAX);
        body
    }

    /// Whether one of the errors has this code.
    pub fn has(&self, code: ErrorCode) -> bool {
        self.errors.iter().any(|error| error.code == code)
    }
}

impl ErrorEntry {
    fn read(value: &Value) -> Option<Self> {
        let error = value.as_object()?;
        let text = |key| error.get(key).and_then(Value::as_str).map(clean);
        let code = text("code").unwrap_or_default();
        let message = text("message").filter(|message| !message.is_empty());
        if code.is_empty() && message.is_none() {
            return None;
        }
        Some(Self {
            code: ErrorCode::from_text(&code).unwrap_or(ErrorCode::Unknown),
            message: message.unwrap_or(code),
            detail: Value::Null,
        })
    }
}

/// Upstream's text, fit for a log line and for a header: short and without control characters.
fn clean(text: &str) -> String {
    let mut clean = String::new();
    let blank = |c: char| c.is_control() || c.is_whitespace();
    for c in text.trim_matches(blank).chars() {
        let c = if c.is_control() { ' ' } else { c };
        if clean.len() + c.len_utf8() > ERROR_MESSAGE_BYTES_MAX {
            break;
        }
        clean.push(c);
    }
    clean.truncate(clean.trim_end().len());
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn codes_are_those_of_the_table() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), json!(code.as_str()));
            assert_eq!(ErrorCode::from_text(code.as_str()), Some(code));
            let body = ErrorBody::new(code, "why");
            assert_eq!(ErrorBody::parse(&body.to_json()), body);
            assert!(body.has(code));
        }
    }

    #[test]
    fn bodies_are_written_as_the_specification_has_them() {
        let mut body = ErrorBody::new(ErrorCode::TooManyRequests, "slow \"down\"");
        let json = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow \"down\""}]}"#;
        assert_eq!(body.to_json(), json.as_bytes());
        body.errors[0].detail = json!({"limit": 100});
        assert!(String::from_utf8(body.to_json()).unwrap().contains(r#""detail":{"limit":100}"#));
    }

    #[test]
    fn upstreams_bodies_are_understood() {
        for (body, expected) in [
            // Docker Hub.
            (
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required",
                    "detail":[{"Type":"repository","Class":"","Name":"x","Action":"pull"}]}]}"#,
                Some((ErrorCode::Unauthorized, "authentication required")),
            ),
            // Docker Hub's token server.
            (
                r#"{"details":"incorrect username or password"}"#,
                Some((ErrorCode::Unknown, "incorrect username or password")),
            ),
            (
                r#"{"error":"invalid_grant","error_description":"no such key"}"#,
                Some((ErrorCode::Unknown, "no such key")),
            ),
            (
                r#"{"errors":[{"code":"name_unknown"}]}"#,
                Some((ErrorCode::NameUnknown, "name_unknown")),
            ),
            (r#"{"errors":[{"code":"X_Y","message":""}]}"#, Some((ErrorCode::Unknown, "X_Y"))),
            (
                r#"{"errors":[{"code":7,"message":"a\r\nb\u0000"}]}"#,
                Some((ErrorCode::Unknown, "a  b")),
            ),
            (r#"{"errors":[7,{},null]}"#, None),
            (r#"{"errors":null}"#, None),
            ("<html><body>Bad Gateway</body></html>", None),
            ("Ref A: 0123", None),
            ("", None),
            ("[]", None),
        ] {
            let parsed = ErrorBody::parse(body.as_bytes());
            let first = parsed.errors.first().map(|e| (e.code, e.message.as_str()));
            assert_eq!(first, expected, "{body}");
        }
    }

    #[test]
    fn hostile_bodies_are_capped() {
        let many = json!({"errors": vec![json!({"code": "DENIED"}); 100]}).to_string();
        assert_eq!(ErrorBody::parse(many.as_bytes()).errors.len(), ERRORS_MAX);
        let long = json!({"message": "\u{e4}".repeat(2000)}).to_string();
        assert!(
            ErrorBody::parse(long.as_bytes()).errors[0].message.len() <= ERROR_MESSAGE_BYTES_MAX
        );
        let huge = json!({"message": "a".repeat(ERROR_BODY_BYTES_MAX)}).to_string();
        assert_eq!(ErrorBody::parse(huge.as_bytes()), ErrorBody::default());
        let deep = "[".repeat(10_000);
        assert_eq!(ErrorBody::parse(deep.as_bytes()), ErrorBody::default());
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(code in ".{0,12}|DENIED", message in any::<String>()) {
            let body = json!({"errors": [{"code": code, "message": message}]}).to_string();
            let parsed = ErrorBody::parse(body.as_bytes());
            prop_assert_eq!(ErrorBody::parse(&parsed.to_json()), parsed);
        }

        #[test]
        fn never_panics(body in prop::collection::vec(any::<u8>(), 0..64)) {
            ErrorBody::parse(&body);
        }
    }
}
