//! The words of the OCI specifications as types that cannot be wrong.
//!
//! Everything that a client or an upstream sends passes through one of the parsers here
//! before any other part of the program sees it.

pub mod content_range;
pub mod descriptor;
pub mod digest;
pub mod error_code;
mod json;
pub mod link;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod platform;
pub mod range;
pub mod reference;
mod scan;
pub mod tag;
pub mod warning;
pub mod www_authenticate;

pub use content_range::ContentRange;
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestError, Hasher, Mismatch, Verified};
pub use error_code::{ErrorBody, ErrorCode, ErrorEntry};
pub use link::{format_next_link, next_link};
pub use manifest::{BlobRef, MANIFEST_BYTES_MAX, Manifest, ManifestError};
pub use media_type::{ACCEPT_MANIFESTS, ManifestKind, MediaType, MediaTypeError};
pub use name::{NameError, RepoName};
pub use platform::{Platform, PlatformError};
pub use range::{ByteRanges, ByteSpan, RangeSpec, Resolved};
pub use reference::{Reference, ReferenceError};
pub use tag::{Tag, TagError};
pub use warning::format_warning;
pub use www_authenticate::Challenge;
