//! What the engine tells whoever decides what stays.

use std::fmt::Debug;

use crate::oci::Digest;
use crate::scope::UpstreamName;

/// Takes notes of how stored content is used. Called on every pull: nothing here waits or fails.
pub trait Notes: Send + Sync + Debug + 'static {
    /// That content was pulled, in whatever way.
    fn used(&self, digest: &Digest);

    /// That content came from that upstream.
    fn came_from(&self, digest: &Digest, upstream: &UpstreamName);

    /// The manifest names these manifests and blobs.
    fn names(&self, manifest: &Digest, parts: Vec<Digest>);
}

/// Takes no notes: where nothing is ever evicted.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNotes;

impl Notes for NoNotes {
    fn used(&self, _: &Digest) {}

    fn came_from(&self, _: &Digest, _: &UpstreamName) {}

    fn names(&self, _: &Digest, _: Vec<Digest>) {}
}
