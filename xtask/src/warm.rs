//! What is cached already: manifests and large blobs, under load by wrk.

use std::path::Path;
use std::time::Duration;

use pierhead_kit::http::{Request, get};
use pierhead_kit::program::{DockerRegistry, Pierhead};
use pierhead_kit::wait_until;

use crate::Result;
use crate::download::Download;
use crate::load::{Load, load};
use crate::nginx::Nginx;
use crate::origin::{Blob, Image, Origin, pierhead, registry_proxy};
use crate::report::{Row, Samples, Who};

const QUIET: &str = "[log]\nlevel = \"warn\"\n";
const MANIFEST_CONNECTIONS: u32 = 64;
const BLOB_BYTES: u64 = 256 << 20;
const BLOB_CONNECTIONS: [u32; 3] = [1, 8, 32];
/// How long something may take to be stored behind its answer.
const STORED: Duration = Duration::from_secs(20);
/// Pulls after which docker-registry should have stored a blob.
const PULLS_MAX: usize = 10;

/// Everybody with warm caches.
#[derive(Debug)]
pub(crate) struct Warm {
    pierhead: Pierhead,
    quiet: Pierhead,
    nginx: Nginx,
    registry: DockerRegistry,
    origin: Origin,
}

impl Warm {
    /// Starts everybody.
    pub(crate) fn start(binary: &Path) -> Result<Self> {
        let origin = Origin::start()?;
        Ok(Self {
            pierhead: pierhead(binary, &origin.url(), "")?,
            quiet: pierhead(binary, &origin.url(), QUIET)?,
            nginx: Nginx::start()?,
            registry: registry_proxy(&origin.url())?,
            origin,
        })
    }

    fn host(&self, who: Who) -> String {
        match who {
            Who::Pierhead => self.pierhead.host().to_owned(),
            Who::PierheadQuiet => self.quiet.host().to_owned(),
            Who::Nginx => self.nginx.host(),
            Who::Registry => self.registry.host(),
            Who::Direct | Who::Cached | Who::Called | Who::CalledElsewhere => self.origin.host(),
        }
    }

    fn load(&self, who: Who, path: &str, connections: u32, seconds: u64) -> Result<Load> {
        let pid = match who {
            Who::Pierhead => Some(self.pierhead.pid()),
            Who::PierheadQuiet => Some(self.quiet.pid()),
            Who::Nginx => Some(self.nginx.pid()),
            Who::Registry => self.registry.pid(),
            Who::Direct | Who::Cached | Who::Called | Who::CalledElsewhere => None,
        };
        let pid = pid.ok_or("who is measured does not run")?;
        load(&format!("http://{}{path}", self.host(who)), pid, connections, seconds)
    }

    /// Manifests by digest and by tag.
    pub(crate) fn manifests(&self, rounds: usize, seconds: u64) -> Result<Vec<Row>> {
        let image = self.origin.add_image(1)?;
        self.nginx.add_image(&image)?;
        let mut rows = Vec::new();
        for (what, path) in [("digest", image.by_digest()), ("tag", image.by_tag())] {
            for who in [Who::Pierhead, Who::PierheadQuiet, Who::Nginx, Who::Registry] {
                self.check_manifest(who, &path, &image)?;
            }
            let (mut rate, mut cpu, mut p99) =
                (Samples::default(), Samples::default(), Samples::default());
            for _ in 0..rounds {
                for who in [Who::Pierhead, Who::Nginx, Who::PierheadQuiet, Who::Registry] {
                    let load = self.load(who, &path, MANIFEST_CONNECTIONS, seconds)?;
                    rate.add(who, load.requests_per_second);
                    cpu.add(who, load.cpu_per_request);
                    p99.add(who, load.p99.as_secs_f64());
                }
            }
            let name = format!("warm manifest by {what}, {MANIFEST_CONNECTIONS} connections");
            rows.push(Row::new(format!("{name}: requests/s"), rate));
            rows.push(Row::new(format!("{name}: CPU per request"), cpu));
            rows.push(Row::new(format!("{name}: p99"), p99));
        }
        Ok(rows)
    }

    fn check_manifest(&self, who: Who, path: &str, image: &Image) -> Result<()> {
        let url = format!("http://{}{path}", self.host(who));
        let accept = "application/vnd.oci.image.manifest.v1+json";
        let answer = Request::new("GET", &url).header("accept", accept).try_send()?;
        if answer.status != 200 || answer.body != image.manifest {
            return Err(format!("{url} is not what was pushed: {answer:?}").into());
        }
        if matches!(who, Who::Pierhead | Who::PierheadQuiet) {
            wait_for_hit(&url);
        }
        Ok(())
    }

    /// A blob over 1, 8 and 32 connections.
    pub(crate) fn blobs(&self, rounds: usize, seconds: u64) -> Result<Vec<Row>> {
        let blob = self.origin.add_blob(2, BLOB_BYTES)?;
        self.nginx.add_blob(&blob)?;
        for who in [Who::Pierhead, Who::Nginx] {
            self.check_blob(who, &blob)?;
        }
        wait_for_hit(&format!("{}{}", self.pierhead.url(), blob.path()));
        self.store_in_registry(&blob)?;
        let mut rows = Vec::new();
        for connections in BLOB_CONNECTIONS {
            let (mut rate, mut cpu) = (Samples::default(), Samples::default());
            for _ in 0..rounds {
                for who in [Who::Pierhead, Who::Nginx, Who::Registry] {
                    let load = self.load(who, &blob.path(), connections, seconds)?;
                    rate.add(who, load.bytes_per_second);
                    cpu.add(who, load.cpu_per_byte);
                }
            }
            let name = format!("warm blob of 256 MiB, {connections} connections");
            rows.push(Row::new(format!("{name}: bytes/s"), rate));
            rows.push(Row::new(format!("{name}: CPU per byte"), cpu));
        }
        Ok(rows)
    }

    fn check_blob(&self, who: Who, blob: &Blob) -> Result<()> {
        let host = self.host(who);
        let got = Download::open(&host, &blob.path())?.sha256()?;
        if got != blob.digest {
            return Err(format!("{host} served {got} as {}", blob.digest).into());
        }
        Ok(())
    }

    /// docker-registry stores a blob behind its first answer, and says nowhere that it has.
    fn store_in_registry(&self, blob: &Blob) -> Result<()> {
        let mut quiet = 0;
        for _ in 0..PULLS_MAX {
            let (before, _) = self.origin.gets(blob);
            self.check_blob(Who::Registry, blob)?;
            let (after, _) = self.origin.gets(blob);
            quiet = if after == before { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Ok(());
            }
        }
        Err("docker-registry does not store what it fetched".into())
    }
}

/// Waits until Pierhead says that it has it.
pub(crate) fn wait_for_hit(url: &str) {
    let hit = || {
        let answer = if url.contains("/blobs/") {
            Request::new("GET", url).header("range", "bytes=0-0").send()
        } else {
            get(url)
        };
        answer.header("cache-status").is_some_and(|status| status.contains("hit")).then_some(())
    };
    wait_until("a hit", STORED, hit);
}
