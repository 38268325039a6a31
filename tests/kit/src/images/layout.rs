//! An OCI image layout, written and read.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::media;
use crate::random::Random;
use crate::sha256;

/// What names a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The media type.
    pub media_type: String,
    /// The digest.
    pub digest: String,
    /// The size in bytes.
    pub size: u64,
    /// `platform` and `annotations`, where an index needs them.
    more: Vec<(String, Value)>,
}

impl Descriptor {
    fn json(&self) -> Value {
        let mut json = json!({
            "mediaType": self.media_type, "digest": self.digest, "size": self.size,
        });
        for (name, value) in &self.more {
            json[name] = value.clone();
        }
        json
    }
}

/// A layer in a layout.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The compressed blob.
    pub descriptor: Descriptor,
    /// The digest of the tar file in it.
    pub diff_id: String,
}

/// A finished layout with one image or index in it, named `latest`.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
    root: Descriptor,
    _temporary: Option<Arc<TempDir>>,
}

impl Layout {
    /// Opens a layout that [`Writer`] wrote.
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let index = fs::read(dir.join("index.json")).expect("a layout");
        let index: Value = serde_json::from_slice(&index).expect("an index");
        let entry = &index["manifests"][0];
        let text = |name: &str| entry[name].as_str().expect("a descriptor").to_owned();
        let root = Descriptor {
            media_type: text("mediaType"),
            digest: text("digest"),
            size: entry["size"].as_u64().expect("a size"),
            more: Vec::new(),
        };
        Self { dir, root, _temporary: None }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image or index.
    pub fn root(&self) -> &Descriptor {
        &self.root
    }

    /// The bytes of a blob or manifest.
    pub fn read(&self, digest: &str) -> Vec<u8> {
        fs::read(blob_path(&self.dir, digest)).unwrap_or_else(|e| panic!("{digest}: {e}"))
    }

    /// A manifest as JSON.
    pub fn json(&self, digest: &str) -> Value {
        serde_json::from_slice(&self.read(digest)).expect("a manifest")
    }

    /// All manifests (the root first), with their media types.
    pub fn manifests(&self) -> Vec<(String, String)> {
        let mut all = vec![(self.root.digest.clone(), self.root.media_type.clone())];
        let root = self.json(&self.root.digest);
        for child in root["manifests"].as_array().into_iter().flatten() {
            let text = |name: &str| child[name].as_str().expect("a descriptor").to_owned();
            all.push((text("digest"), text("mediaType")));
        }
        all
    }

    /// The manifest for linux and that architecture: the root itself where it is no index.
    pub fn platform(&self, architecture: &str) -> String {
        let root = self.json(&self.root.digest);
        let Some(children) = root["manifests"].as_array() else { return self.root.digest.clone() };
        let child = children.iter().find(|c| c["platform"]["architecture"] == architecture);
        let child = child.unwrap_or_else(|| panic!("no {architecture}: {root}"));
        child["digest"].as_str().expect("a digest").to_owned()
    }

    /// The digests of the configuration and the layers of one manifest.
    pub fn image_blobs(&self, manifest: &str) -> Vec<String> {
        let json = self.json(manifest);
        let layers = json["layers"].as_array().into_iter().flatten();
        json.get("config")
            .into_iter()
            .chain(layers)
            .map(|d| d["digest"].as_str().expect("a digest").to_owned())
            .collect()
    }

    /// The digests and sizes of the blobs of all images: configurations and layers, each once.
    pub fn blobs(&self) -> BTreeMap<String, u64> {
        let digests =
            self.manifests().into_iter().flat_map(|(digest, _)| self.image_blobs(&digest));
        let size = |digest: &str| fs::metadata(blob_path(&self.dir, digest)).expect("it").len();
        digests.map(|digest| (digest.clone(), size(&digest))).collect()
    }
}

fn blob_path(dir: &Path, digest: &str) -> PathBuf {
    dir.join("blobs").join(digest.replace(':', "/"))
}

/// Writes a layout.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    temporary: Option<TempDir>,
}

impl Writer {
    /// Writes into a directory that goes when the layout does.
    pub fn temporary() -> Self {
        let temporary = TempDir::with_prefix("pierhead-layout-").expect("a temporary directory");
        let mut writer = Self::new(temporary.path());
        writer.temporary = Some(temporary);
        writer
    }

    /// Writes into that directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        fs::create_dir_all(dir.join("blobs/sha256")).expect("a directory");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
        Self { dir, temporary: None }
    }

    /// Adds a blob.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = sha256(bytes);
        fs::write(blob_path(&self.dir, &digest), bytes).expect("a file");
        let size = bytes.len() as u64;
        Descriptor { media_type: media_type.to_owned(), digest, size, more: Vec::new() }
    }

    /// Adds a layer with these files. The content is stored, not compressed, within gzip.
    pub fn layer(&self, files: &[(String, Random)]) -> Layer {
        let mut tar: Box<dyn Read> = Box::new(std::io::empty());
        for (name, content) in files {
            let padding = (512 - content.len() % 512) % 512;
            tar = Box::new(
                tar.chain(std::io::Cursor::new(tar_header(name, content.len())))
                    .chain(content.reader())
                    .chain(std::io::repeat(0).take(padding)),
            );
        }
        self.layer_from_tar(tar.chain(std::io::repeat(0).take(1024)), Compression::none())
    }

    /// Adds a layer from a tar file.
    pub fn layer_from_tar(&self, tar: impl Read, level: Compression) -> Layer {
        let mut temporary = tempfile::NamedTempFile::new_in(&self.dir).expect("a file");
        let mut tar = BufReader::with_capacity(256 * 1024, tar);
        let mut diff = Sha256::new();
        let out =
            Hashing { out: BufWriter::new(temporary.as_file_mut()), hash: Sha256::new(), n: 0 };
        let mut gzip = GzEncoder::new(out, level);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = tar.read(&mut buffer).expect("the tar file");
            if n == 0 {
                break;
            }
            diff.update(&buffer[..n]);
            gzip.write_all(&buffer[..n]).expect("a file");
        }
        let Hashing { mut out, hash, n: size } = gzip.finish().expect("a file");
        out.flush().expect("a file");
        drop(out);
        let digest = format!("sha256:{}", hex::encode(hash.finalize()));
        temporary.persist(blob_path(&self.dir, &digest)).expect("a file");
        let media_type = media::LAYER.to_owned();
        let descriptor = Descriptor { media_type, digest, size, more: Vec::new() };
        Layer { descriptor, diff_id: format!("sha256:{}", hex::encode(diff.finalize())) }
    }

    /// Adds an image for linux and that architecture.
    pub fn image(&self, architecture: &str, layers: &[Layer]) -> Descriptor {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
        let created = "2024-01-01T00:00:00Z";
        let history: Vec<_> = layers.iter().map(|_| json!({"created": created})).collect();
        let config = json!({
            "created": created,
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let mut manifest = self.manifest(&config, layers.iter().map(|layer| &layer.descriptor));
        let platform = json!({"os": "linux", "architecture": architecture});
        manifest.more.push(("platform".into(), platform));
        manifest
    }

    fn manifest<'a>(
        &self,
        config: &Value,
        layers: impl Iterator<Item = &'a Descriptor>,
    ) -> Descriptor {
        let config = self.blob(media::CONFIG, config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": config.json(),
            "layers": layers.map(Descriptor::json).collect::<Vec<_>>(),
        });
        self.blob(media::MANIFEST, manifest.to_string().as_bytes())
    }

    /// Adds an attestation of an image, as buildkit does: an entry of the index for the platform
    /// unknown/unknown, whose layer is an in-toto statement.
    pub fn attestation(&self, subject: &Descriptor) -> Descriptor {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v0.2",
            "subject": [{"name": "kit", "digest": {"sha256": &subject.digest[7..]}}],
            "predicate": {},
        });
        let layer = self.blob("application/vnd.in-toto+json", statement.to_string().as_bytes());
        let config = json!({
            "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        });
        let mut manifest = self.manifest(&config, std::iter::once(&layer));
        let platform = json!({"os": "unknown", "architecture": "unknown"});
        let annotations = json!({
            "vnd.docker.reference.digest": subject.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        });
        manifest.more.push(("platform".into(), platform));
        manifest.more.push(("annotations".into(), annotations));
        manifest
    }

    /// Adds an index.
    pub fn index(&self, manifests: &[Descriptor]) -> Descriptor {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": media::INDEX,
            "manifests": manifests.iter().map(Descriptor::json).collect::<Vec<_>>(),
        });
        self.blob(media::INDEX, index.to_string().as_bytes())
    }

    /// Names the image or index of the layout.
    pub fn finish(self, root: Descriptor) -> Layout {
        let mut entry = root.json();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(self.dir.join("index.json"), index.to_string()).expect("a file");
        Layout { dir: self.dir, root, _temporary: self.temporary.map(Arc::new) }
    }
}

struct Hashing<W> {
    out: W,
    hash: Sha256,
    n: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.n += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// The header of a regular file, in the ustar format.
fn tar_header(name: &str, size: u64) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "14544000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
