//! Plugins that are artifacts in registries.
//!
//! Three layouts are in the field, and all are taken: the CNCF's (a config of type
//! `application/vnd.wasm.config.v0+json` and one `application/wasm` layer), a single layer of type
//! `application/vnd.module.wasm.content.layer.v1+wasm`, and an image with a `plugin.wasm` in its
//! gzipped layers, as Istio's and Solo's tools make them.
//!
//! Sources: CNCF TAG Runtime, "Wasm OCI Artifact layout"; solo-io/wasm, `spec/spec-compat.md`.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use flate2::read::GzDecoder;
use futures_util::future::BoxFuture;

use super::file::PLUGIN_BYTES_MAX;
use super::source::Artifact;
use super::verify::{PublicKey, SIGNATURE_BYTES_MAX};
use crate::hooks::chain::Broke;
use crate::oci::{Descriptor, Digest, Manifest, MediaType, Reference};
use crate::upstream::{BlobPart, ErrorKind, Referrers, Upstream, UpstreamError};

/// Layers that are WebAssembly themselves.
const WASM_LAYERS: [&str; 2] =
    ["application/wasm", "application/vnd.module.wasm.content.layer.v1+wasm"];

/// Layers of images.
const TAR_LAYERS: [&str; 2] = [
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// The plugin's file in an image.
const IMAGE_FILE: &str = "plugin.wasm";

/// The most layers of an image that are looked through.
const LAYERS_MAX: usize = 8;

/// The most entries of a layer that are looked at.
const ENTRIES_MAX: usize = 1000;

/// The largest layer of an image when it is unpacked, in bytes.
const UNPACKED_BYTES_MAX: u64 = 2 * PLUGIN_BYTES_MAX as u64;

/// How often a fetch is tried.
const TRIES: u32 = 3;

/// How long the first pause between tries is; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(500);

/// The kind of cosign's signatures among referrers.
const SIGNATURE_KIND: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

/// The kind of layer that holds what cosign signed.
const PAYLOAD_LAYER: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Where cosign puts a signature.
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// The largest payload that cosign signed, in bytes.
const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// The most signatures that are looked at.
const SIGNATURES_MAX: usize = 16;

/// Fetches a plugin. With a key, nothing but the manifest is fetched before it is known that the
/// key has signed it.
///
/// # Errors
/// [`Broke::Fetch`] and [`Broke::Signature`]. Cancel-safe.
pub(super) async fn fetch(
    upstream: &Upstream,
    artifact: &Artifact,
    key: Option<&PublicKey>,
) -> Result<Bytes, Broke> {
    let fetcher = Fetcher { upstream, artifact };
    let manifest = fetcher.manifest(&artifact.digest).await?;
    if let Some(key) = key {
        fetcher.verify(key).await?;
    }
    let layer = choose(&manifest).map_err(Broke::Fetch)?;
    match layer {
        Layer::Wasm(layer) => fetcher.blob(layer, PLUGIN_BYTES_MAX).await,
        Layer::Image(layers) => {
            // The last one counts, as in any image.
            for layer in layers.iter().rev() {
                let packed = fetcher.blob(layer, PLUGIN_BYTES_MAX).await?;
                let unpacked = tokio::task::spawn_blocking(move || unpack(&packed)).await;
                let unpacked = unpacked.map_err(|error| Broke::Fetch(error.to_string()))?;
                match unpacked {
                    Ok(Some(wasm)) => return Ok(wasm),
                    Ok(None) => {}
                    Err(error) => {
                        return Err(Broke::Fetch(format!("{}: {error}", layer.digest)));
                    }
                }
            }
            Err(Broke::Fetch(format!("no layer of the image holds {IMAGE_FILE}")))
        }
    }
}

/// What of a manifest is the plugin.
#[derive(Debug, PartialEq, Eq)]
enum Layer<'m> {
    Wasm(&'m Descriptor),
    Image(&'m [Descriptor]),
}

fn choose(manifest: &Manifest) -> Result<Layer<'_>, String> {
    let is = |layer: &Descriptor, kinds: &[&str]| {
        let kind = layer.media_type.as_ref().map(MediaType::as_str);
        kind.is_some_and(|kind| kinds.contains(&kind))
    };
    let layers = manifest.layers();
    let mut wasm = layers.iter().filter(|layer| is(layer, &WASM_LAYERS));
    match (wasm.next(), wasm.next()) {
        (Some(layer), None) => return Ok(Layer::Wasm(layer)),
        (Some(_), Some(_)) => {
            return Err("it has several layers of WebAssembly, of which one is meant".to_owned());
        }
        (None, _) => {}
    }
    if layers.is_empty() {
        return Err("it is an index or has no layers; name the manifest's own digest".to_owned());
    }
    if layers.len() <= LAYERS_MAX && layers.iter().all(|layer| is(layer, &TAR_LAYERS)) {
        return Ok(Layer::Image(layers));
    }
    let kinds: Vec<&str> = layers
        .iter()
        .take(LAYERS_MAX)
        .filter_map(|layer| layer.media_type.as_ref().map(MediaType::as_str))
        .collect();
    Err(format!(
        "its layers are no plugin: {}; {}, or an image with {IMAGE_FILE} in it, is wanted",
        kinds.join(", "),
        WASM_LAYERS.join(" or ")
    ))
}

/// The plugin in a layer of an image, if it is there. Blocks.
fn unpack(packed: &[u8]) -> io::Result<Option<Bytes>> {
    let unpacked = GzDecoder::new(packed).take(UNPACKED_BYTES_MAX);
    let mut archive = tar::Archive::new(unpacked);
    for entry in archive.entries()?.take(ENTRIES_MAX) {
        let mut entry = entry?;
        let is_plugin = {
            let path = entry.path()?;
            path.strip_prefix("./").unwrap_or(&path) == Path::new(IMAGE_FILE)
        };
        if !is_plugin || !entry.header().entry_type().is_file() {
            continue;
        }
        let mut wasm = Vec::new();
        entry.by_ref().take(PLUGIN_BYTES_MAX as u64 + 1).read_to_end(&mut wasm)?;
        if wasm.len() > PLUGIN_BYTES_MAX {
            let message = format!("{IMAGE_FILE} is larger than {PLUGIN_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        return Ok(Some(wasm.into()));
    }
    Ok(None)
}

struct Fetcher<'a> {
    upstream: &'a Upstream,
    artifact: &'a Artifact,
}

impl Fetcher<'_> {
    /// Tries a few times what may work the next time.
    async fn patiently<'w, T>(
        &self,
        work: impl Fn() -> BoxFuture<'w, Result<T, UpstreamError>> + Send + Sync,
    ) -> Result<T, UpstreamError> {
        let mut pause = PAUSE_FIRST;
        for _ in 1..TRIES {
            match work().await {
                Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
                    tracing::warn!(%error, ?pause, "a plugin is fetched once more");
                }
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        work().await
    }

    async fn manifest(&self, digest: &Digest) -> Result<Manifest, Broke> {
        let reference = Reference::Digest(*digest);
        let fetched = self
            .patiently(|| {
                Box::pin(self.upstream.get_manifest(&self.artifact.repository, &reference))
            })
            .await
            .map_err(|error| Broke::Fetch(error.to_string()))?;
        if Digest::sha256(&fetched.bytes) != *digest {
            return Err(Broke::Fetch(format!("upstream sent another manifest than {digest}")));
        }
        Manifest::parse(&fetched.bytes, fetched.media_type.as_ref())
            .map_err(|error| Broke::Fetch(format!("{digest}: {error}")))
    }

    async fn blob(&self, wanted: &Descriptor, bytes_max: usize) -> Result<Bytes, Broke> {
        let digest = wanted.digest;
        let too_large = || Broke::Fetch(format!("{digest} is larger than {bytes_max} bytes"));
        if wanted.size > bytes_max as u64 {
            return Err(too_large());
        }
        let bytes = self
            .patiently(|| {
                Box::pin(async move {
                    let (repo, whole) = (&self.artifact.repository, BlobPart::whole());
                    let mut body = self.upstream.get_blob(repo, &digest, &whole).await?;
                    let mut bytes = BytesMut::new();
                    while let Some(chunk) = body.chunk().await? {
                        if bytes.len() + chunk.len() > bytes_max {
                            return Ok(None);
                        }
                        bytes.extend_from_slice(&chunk);
                    }
                    Ok(Some(bytes.freeze()))
                })
            })
            .await
            .map_err(|error| Broke::Fetch(error.to_string()))?
            .ok_or_else(too_large)?;
        if Digest::sha256(&bytes) != digest {
            return Err(Broke::Fetch(format!("upstream sent something else than {digest}")));
        }
        Ok(bytes)
    }

    /// Checks that the key has signed the manifest's digest, as cosign does it: in an artifact
    /// that refers to it, or under the tag `sha256-….sig`.
    async fn verify(&self, key: &PublicKey) -> Result<(), Broke> {
        let mut looked = 0;
        for digest in self.signatures().await? {
            // What somebody else left there says nothing.
            let Ok(manifest) = self.manifest(&digest).await else { continue };
            for layer in manifest.layers().iter().take(SIGNATURES_MAX - looked) {
                looked += 1;
                if self.is_signature(layer, key).await {
                    return Ok(());
                }
            }
            if looked >= SIGNATURES_MAX {
                break;
            }
        }
        let what = if looked == 0 { "there is no signature of it" } else { "no signature of it" };
        Err(Broke::Signature(format!("{what} by the key {key:?}")))
    }

    /// The manifests that may hold signatures, without those that cannot be asked for.
    async fn signatures(&self) -> Result<Vec<Digest>, Broke> {
        let (repo, digest) = (&self.artifact.repository, &self.artifact.digest);
        let mut found = Vec::new();
        let tag = format!("{}.sig", digest.to_string().replacen(':', "-", 1));
        if let Ok(tag) = tag.parse() {
            let reference = Reference::Tag(tag);
            let head = self.patiently(|| Box::pin(self.upstream.get_manifest(repo, &reference)));
            match head.await {
                Ok(manifest) => found.push(Digest::sha256(&manifest.bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Broke::Signature(error.to_string())),
            }
        }
        if let Ok(Referrers::Listed { descriptors, .. }) =
            self.upstream.referrers(repo, digest).await
        {
            let of_kind = descriptors.into_iter().filter_map(|value| {
                let found: Descriptor = serde_json::from_value(value).ok()?;
                let kind = found.artifact_type.as_ref().map(MediaType::as_str);
                (kind == Some(SIGNATURE_KIND)).then_some(found.digest)
            });
            found.extend(of_kind.take(SIGNATURES_MAX));
        }
        Ok(found)
    }

    async fn is_signature(&self, layer: &Descriptor, key: &PublicKey) -> bool {
        let kind = layer.media_type.as_ref().map(MediaType::as_str);
        let Some(signature) = layer.annotations.get(SIGNATURE_ANNOTATION) else { return false };
        if kind != Some(PAYLOAD_LAYER) || signature.len() > SIGNATURE_BYTES_MAX {
            return false;
        }
        let Ok(signature) = STANDARD.decode(signature.trim()) else { return false };
        match self.blob(layer, PAYLOAD_BYTES_MAX).await {
            Ok(payload) => key.has_signed_payload(&payload, &signature, &self.artifact.digest),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn manifest(layers: &[&str]) -> Manifest {
        let digest = Digest::sha256(b"x").to_string();
        let descriptor =
            |kind: &str| serde_json::json!({ "mediaType": kind, "digest": digest, "size": 1 });
        let layers: Vec<_> = layers.iter().map(|kind| descriptor(kind)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.wasm.config.v0+json"),
            "layers": layers,
        });
        Manifest::parse(manifest.to_string().as_bytes(), None).unwrap()
    }

    fn tar_gz(name: &str, content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&builder.into_inner().unwrap()).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn the_layouts_in_the_field_are_known() {
        for kind in WASM_LAYERS {
            assert!(matches!(choose(&manifest(&[kind])), Ok(Layer::Wasm(_))), "{kind}");
            // Documentation may lie beside it.
            let more = manifest(&[kind, "text/markdown"]);
            assert!(matches!(choose(&more), Ok(Layer::Wasm(_))), "{kind}");
        }
        for kind in TAR_LAYERS {
            let image = manifest(&[kind, kind]);
            assert!(matches!(choose(&image), Ok(Layer::Image(layers)) if layers.len() == 2));
        }
        for (layers, says) in [
            (&[WASM_LAYERS[0], WASM_LAYERS[0]][..], "several"),
            (&[], "no layers"),
            (&["text/plain"], "text/plain"),
        ] {
            assert!(choose(&manifest(layers)).unwrap_err().contains(says), "{layers:?}");
        }
    }

    #[test]
    fn a_plugin_is_found_in_an_image() {
        let wasm = Some(Bytes::from_static(b"\0asm"));
        assert_eq!(unpack(&tar_gz("plugin.wasm", b"\0asm")).unwrap(), wasm);
        assert_eq!(unpack(&tar_gz("./plugin.wasm", b"\0asm")).unwrap(), wasm);
        assert_eq!(unpack(&tar_gz("x/plugin.wasm", b"\0asm")).unwrap(), None);
        assert!(unpack(b"no gzip").is_err());
        let whole = tar_gz("plugin.wasm", &[7; 4096]);
        assert!(unpack(&whole[..whole.len() / 2]).is_err());
    }
}
