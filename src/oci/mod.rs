//! The words of the OCI specifications as types that cannot be wrong.
//!
//! Everything that a client or an upstream sends passes through one of the parsers here
//! before any other part of the program sees it.

pub mod descriptor;
pub mod digest;
mod json;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod platform;
pub mod reference;
pub mod tag;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, DigestError, Hasher, Mismatch, Verified};
pub use manifest::{BlobRef, MANIFEST_BYTES_MAX, Manifest, ManifestError};
pub use media_type::{ACCEPT_MANIFESTS, ManifestKind, MediaType, MediaTypeError};
pub use name::{NameError, RepoName};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
pub use tag::{Tag, TagError};
