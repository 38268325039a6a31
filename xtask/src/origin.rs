//! The upstream of all measurements: a real docker-registry with made-up content.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pierhead_kit::http::{Request, get};
use pierhead_kit::program::{DockerRegistry, Options, Pierhead};
use pierhead_kit::random::Random;
use pierhead_kit::wait_until;
use serde_json::json;

use crate::Result;
use crate::programs::{DOCKER_REGISTRY, find};

/// The repository of everything.
pub(crate) const REPOSITORY: &str = "library/bench";
/// The tag of the image.
pub(crate) const TAG: &str = "1";

/// Layers of the image: as many as common images have, so that its manifest has a common size.
const IMAGE_LAYERS: u64 = 8;
const LAYER_BYTES: u64 = 2_000;
const PUSH_BYTES: usize = 256 * 1024;
const SILENCE: Duration = Duration::from_secs(60);

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A blob that the origin has.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    /// Its digest.
    pub(crate) digest: String,
    /// Its content.
    pub(crate) content: Random,
}

impl Blob {
    /// Its path in the registry API.
    pub(crate) fn path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.digest)
    }

    /// Its length in bytes.
    pub(crate) const fn len(&self) -> u64 {
        self.content.len()
    }
}

/// A manifest that the origin has under [`TAG`].
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The manifest's digest.
    pub(crate) digest: String,
    /// The manifest.
    pub(crate) manifest: Vec<u8>,
}

impl Image {
    /// The path of the manifest by digest.
    pub(crate) fn by_digest(&self) -> String {
        format!("/v2/{REPOSITORY}/manifests/{}", self.digest)
    }

    /// The path of the manifest by tag.
    #[allow(clippy::unused_self, reason = "the pair of by_digest")]
    pub(crate) fn by_tag(&self) -> String {
        format!("/v2/{REPOSITORY}/manifests/{TAG}")
    }
}

/// The upstream.
#[derive(Debug)]
pub(crate) struct Origin(DockerRegistry);

impl Origin {
    /// Starts it, empty.
    pub(crate) fn start() -> Result<Self> {
        find(DOCKER_REGISTRY)?;
        Ok(Self(DockerRegistry::start().ok_or("docker-registry does not start")?))
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.0.host()
    }

    /// Pushes `len` bytes that belong to `seed`.
    pub(crate) fn add_blob(&self, seed: u64, len: u64) -> Result<Blob> {
        let content = Random::new(seed, len);
        let digest = content.sha256();
        let begun = Request::new("POST", format!("{}/v2/{REPOSITORY}/blobs/uploads/", self.url()))
            .try_send()?;
        let location = begun.header("location").ok_or("the upload has no Location")?;
        let target = location.strip_prefix(&self.url()).unwrap_or(location);
        let joint = if target.contains('?') { '&' } else { '?' };
        let host = self.host();
        let mut socket = TcpStream::connect(&host)?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_write_timeout(Some(SILENCE))?;
        let head = format!(
            "PUT {target}{joint}digest={digest} HTTP/1.1\r\nhost: {host}\r\n\
             content-type: application/octet-stream\r\ncontent-length: {len}\r\n\
             connection: close\r\n\r\n"
        );
        socket.write_all(head.as_bytes())?;
        let mut part = vec![0; PUSH_BYTES];
        let mut reader = content.reader();
        loop {
            let n = reader.read(&mut part)?;
            if n == 0 {
                break;
            }
            socket.write_all(&part[..n])?;
        }
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        if !answer.starts_with("HTTP/1.1 201") {
            return Err(format!("the push of a blob failed: {answer}").into());
        }
        Ok(Blob { digest, content })
    }

    /// Pushes an image of small layers, with a manifest of a common size.
    pub(crate) fn add_image(&self, seed: u64) -> Result<Image> {
        let descriptor = |media_type: &str, blob: &Blob| json!({"mediaType": media_type, "digest": blob.digest, "size": blob.len()});
        let config = self.add_blob(seed, LAYER_BYTES)?;
        let layers = (1..=IMAGE_LAYERS)
            .map(|n| Ok(descriptor(LAYER, &self.add_blob(seed + n, LAYER_BYTES)?)))
            .collect::<Result<Vec<_>>>()?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config), "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = pierhead_kit::sha256(&manifest);
        let answer = Request::new("PUT", format!("{}/v2/{REPOSITORY}/manifests/{TAG}", self.url()))
            .header("content-type", MANIFEST)
            .body(manifest.clone())
            .try_send()?;
        if answer.status != 201 {
            return Err(format!("the push of a manifest failed: {answer:?}").into());
        }
        Ok(Image { digest, manifest })
    }

    /// How many GETs of `blob` were answered so far, and the bytes of their bodies. The access log
    /// has an answer once it is over, also where its client went away.
    pub(crate) fn gets(&self, blob: &Blob) -> (u64, u64) {
        let log = self.0.access_log();
        let gets = log.iter().filter(|r| r.method == "GET" && r.path.contains(&blob.digest));
        gets.fold((0, 0), |(count, bytes), request| (count + 1, bytes + request.bytes))
    }

    /// [`Origin::gets`] once nothing of it can change any more, for when everybody who asked is
    /// gone: a line is written before the connection is closed, so it waits for no connections.
    pub(crate) fn settled_gets(&self, blob: &Blob) -> Result<(u64, u64)> {
        let host = self.host();
        let port: u16 = host.rsplit(':').next().and_then(|p| p.parse().ok()).ok_or("no port")?;
        wait_until("the upstream's connections to close", SILENCE, || {
            let table = fs::read_to_string("/proc/net/tcp").ok()?;
            (!table.lines().any(|line| is_open_at(line, port))).then_some(())
        });
        Ok(self.gets(blob))
    }
}

/// Whether a line of `/proc/net/tcp` is a server's side of a connection at `port` that the server
/// has not closed: established, or closed by the other side only.
fn is_open_at(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local =
        fields.next().and_then(|local| u16::from_str_radix(local.rsplit(':').next()?, 16).ok());
    local == Some(port) && matches!(fields.nth(1), Some("01" | "08"))
}

/// A Pierhead whose docker.io is at `url`, with nothing in its cache.
pub(crate) fn pierhead(binary: &std::path::Path, url: &str, more: &str) -> Result<Pierhead> {
    let config = format!("[upstream.\"docker.io\"]\nendpoints = [\"{url}\"]\n{more}");
    let pierhead = Options::new(binary).config(&config).try_start()?;
    // A server that answers has everything set up.
    get(format!("{}/v2/", pierhead.url())).expect(200);
    Ok(pierhead)
}

/// Debian's docker-registry as a pull-through cache of `url`, with nothing in its cache.
pub(crate) fn registry_proxy(url: &str) -> Result<DockerRegistry> {
    find(DOCKER_REGISTRY)?;
    Ok(DockerRegistry::start_proxy(url).ok_or("docker-registry does not start")?)
}

#[cfg(test)]
mod tests {
    use super::is_open_at;

    #[test]
    fn open_connections_are_seen() {
        let line = |state: &str| format!("   1: 0100007F:1388 0100007F:D2F0 {state} 00000000:0");
        assert!(is_open_at(&line("01"), 5000));
        assert!(is_open_at(&line("08"), 5000));
        assert!(!is_open_at(&line("06"), 5000));
        assert!(!is_open_at(&line("0A"), 5000));
        assert!(!is_open_at(&line("01"), 5001));
        assert!(!is_open_at("  sl  local_address rem_address   st", 5000));
    }
}
