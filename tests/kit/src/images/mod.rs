//! Images made on the spot, as OCI layouts on disk.

mod layout;
mod rootfs;

pub use layout::{Descriptor, Layer, Layout, Writer};
pub use rootfs::debootstrap_rootfs;

use std::time::Duration;

use crate::program;
use crate::random::Random;

/// Media types.
pub mod media {
    /// An OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer: tar with gzip.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Docker's image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// What a client that takes everything sends as `Accept`.
    pub const ACCEPT_ALL: &str = "application/vnd.oci.image.index.v1+json, \
        application/vnd.oci.image.manifest.v1+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.docker.distribution.manifest.v2+json, */*";
}

/// An image for linux/amd64 of `n` layers with one file of `size` bytes each, which do not compress.
/// The same arguments give the same bytes.
pub fn random_layers(n: usize, size: u64) -> Layout {
    let writer = Writer::temporary();
    let layers: Vec<_> = (0..n).map(|i| layer(&writer, n as u64, i, size)).collect();
    let root = writer.image("amd64", &layers);
    writer.finish(root)
}

fn layer(writer: &Writer, seed: u64, number: usize, size: u64) -> Layer {
    let seed = seed.wrapping_mul(1_000_003).wrapping_add(size).wrapping_mul(1_000_003);
    let content = Random::new(seed.wrapping_add(number as u64), size);
    writer.layer(&[(format!("layer-{number}.bin"), content)])
}

/// An image of 120 layers, close to what dockerd accepts.
pub fn many_layers() -> Layout {
    random_layers(120, 2_000)
}

/// An index of linux/amd64, linux/arm64 and an attestation of the first, as buildkit writes it; two
/// layers of `size` bytes per platform, one of them shared.
pub fn multi_arch(size: u64) -> Layout {
    let writer = Writer::temporary();
    let shared = layer(&writer, 77, 0, size);
    let amd64 = writer.image("amd64", &[shared.clone(), layer(&writer, 77, 1, size)]);
    let arm64 = writer.image("arm64", &[shared, layer(&writer, 77, 2, size)]);
    let attestation = writer.attestation(&amd64);
    let root = writer.index(&[amd64, arm64, attestation]);
    writer.finish(root)
}

/// Pushes a layout with skopeo, all platforms and every byte as it is. `registry` is `HOST:PORT`,
/// `name` is `library/app:1`. Returns the digest.
#[track_caller]
pub fn push_layout(layout: &Layout, registry: &str, name: &str) -> String {
    let skopeo = program::which("skopeo").expect("skopeo, which the test has required");
    program::Run::new(skopeo)
        .args(["--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests"])
        .arg("--dest-tls-verify=false")
        .arg(format!("oci:{}:latest", layout.dir().display()))
        .arg(format!("docker://{registry}/{name}"))
        .deadline(Duration::from_secs(300))
        .output()
        .ok();
    layout.root().digest.clone()
}
