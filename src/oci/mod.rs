//! The words of the OCI specifications as types that cannot be wrong.
//!
//! Everything that a client or an upstream sends passes through one of the parsers here
//! before any other part of the program sees it.

pub mod digest;
pub mod name;
pub mod reference;
pub mod tag;

pub use digest::{Algorithm, Digest, DigestError, Hasher, Mismatch, Verified};
pub use name::{NameError, RepoName};
pub use reference::{Reference, ReferenceError};
pub use tag::{Tag, TagError};
