//! What stands beside a spool file that can be found again: whose it is and what has landed.
//!
//! ```text
//! <digest>-<upstream's hash>-<number>.part    the content, with gaps
//! <digest>-<upstream's hash>-<number>.state   one line of JSON, and its SHA-256 on a second
//! ```
//! The number is given once, so that what describes one file is never taken for the description
//! of a later one of that blob. A sidecar is replaced as a whole, after the data that it speaks of
//! has reached the disk: it never says more than the disk has.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::crash::{self, Point};
use super::files::SPOOL_MODE;
use crate::oci::Digest;
use crate::spans::Spans;
use crate::store::blob::{Recorded, Recorder, SpoolKey};

/// The format of the line.
const VERSION: u32 = 1;

/// Parts of a blob that are written down; of more, the smallest are fetched again.
pub(super) const RECORDED_SPANS_MAX: usize = 4096;

/// The largest sidecar that is read, in bytes.
pub(super) const SIDECAR_BYTES_MAX: u64 = 256 << 10;

/// Hexadecimal digits of a hash that stand for an upstream in a file's name.
const UPSTREAM_DIGITS: usize = 16;

/// The ends of the two names.
const PART: &str = ".part";
const STATE: &str = ".state";

/// The two files of one spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) part: PathBuf,
    pub(super) state: PathBuf,
}

impl Pair {
    /// The names of the files for `key` in `dir`; `number` was never given before.
    pub(super) fn new(dir: &Path, key: &SpoolKey, number: u64) -> Self {
        let upstream = Digest::sha256(key.upstream.as_str().as_bytes()).encoded();
        let digest = key.digest.encoded();
        let stem = format!("{digest}-{}-{number:016x}", &upstream[..UPSTREAM_DIGITS]);
        Self { part: dir.join(format!("{stem}{PART}")), state: dir.join(format!("{stem}{STATE}")) }
    }

    /// Removes both, the sidecar first: without it, the other one is nothing.
    pub(super) fn remove(&self) {
        self.remove_state();
        remove(&self.part);
        crash::point(Point::SpoolRemoved);
    }

    /// Removes the sidecar.
    pub(super) fn remove_state(&self) {
        remove(&self.state);
        crash::point(Point::SidecarRemoved);
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            // The next start removes it.
            tracing::warn!(path = %path.display(), error = %cause, "a spool file stays behind");
        }
        _ => {}
    }
}

/// The number in the name of a spool file, with a key or without.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    let digits = stem.rsplit('-').next()?;
    u64::from_str_radix(digits, 16).ok()
}

/// Whether a file is named as a sidecar.
pub(super) fn is_state(name: &str) -> bool {
    name.ends_with(STATE)
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    version: u32,
    upstream: String,
    digest: String,
    size: Option<u64>,
    /// The first byte of each part, and the one behind its last.
    landed: Vec<[u64; 2]>,
}

/// What a sidecar says.
pub(super) fn parse(text: &[u8]) -> Result<(SpoolKey, Recorded), &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "no text")?;
    let (line, checksum) = text.split_once('\n').ok_or("torn")?;
    if checksum.trim_end() != Digest::sha256(line.as_bytes()).encoded() {
        return Err("torn");
    }
    let line: Line = serde_json::from_str(line).map_err(|_| "not of this format")?;
    if line.version != VERSION {
        return Err("not of this format");
    }
    let key = SpoolKey {
        upstream: line.upstream.parse().map_err(|_| "not of this format")?,
        digest: line.digest.parse().map_err(|_| "not of this format")?,
    };
    if line.landed.len() > RECORDED_SPANS_MAX {
        return Err("not of this format");
    }
    let mut behind = 0;
    for [start, end] in &line.landed {
        if start >= end || *start < behind || line.size.is_some_and(|size| *end > size) {
            return Err("not of this format");
        }
        behind = *end;
    }
    let landed = line.landed.iter().map(|[start, end]| *start..*end).collect();
    Ok((key, Recorded { landed, size: line.size }))
}

fn compose(key: &SpoolKey, recorded: &Recorded) -> io::Result<Vec<u8>> {
    let line = Line {
        version: VERSION,
        upstream: key.upstream.to_string(),
        digest: key.digest.to_string(),
        size: recorded.size,
        landed: recorded.landed.iter().map(|span| [span.start, span.end]).collect(),
    };
    let mut text = serde_json::to_string(&line)?;
    let checksum = Digest::sha256(text.as_bytes()).encoded();
    text.push('\n');
    text.push_str(&checksum);
    text.push('\n');
    Ok(text.into_bytes())
}

/// What the sidecar at `path` says, of whatever key it is.
pub(super) fn read(path: &Path) -> Result<(SpoolKey, Recorded), &'static str> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let file = File::open(path).ok().filter(|_| is_file).ok_or("not readable")?;
    let mut text = Vec::new();
    file.take(SIDECAR_BYTES_MAX + 1).read_to_end(&mut text).map_err(|_| "not readable")?;
    if text.len() as u64 > SIDECAR_BYTES_MAX {
        return Err("not of this format");
    }
    parse(&text)
}

/// The largest parts, as many as are written down.
fn bounded(landed: &Spans) -> Spans {
    let mut spans: Vec<_> = landed.iter().collect();
    if spans.len() > RECORDED_SPANS_MAX {
        spans.sort_unstable_by_key(|span| std::cmp::Reverse(span.end - span.start));
        spans.truncate(RECORDED_SPANS_MAX);
    }
    spans.into_iter().collect()
}

/// Writes the sidecar of one spool, for as long as somebody writes to that.
#[derive(Debug)]
pub(super) struct Sidecar {
    key: SpoolKey,
    pair: Pair,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` once the spool is gone: a file that is kept open would take its space on.
    file: Option<Arc<File>>,
    /// The disk did not take what was written. Asked again it would say that all is well, and
    /// what it lost would count as landed.
    failed: bool,
    recorded: Recorded,
}

impl Sidecar {
    /// Of the spool of `key` in `file`, which has `recorded` already.
    pub(super) const fn new(
        key: SpoolKey,
        pair: Pair,
        file: Arc<File>,
        recorded: Recorded,
    ) -> Self {
        let state = State { file: Some(file), failed: false, recorded };
        Self { key, pair, state: Mutex::new(state) }
    }

    pub(super) const fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Waits for a record that is being written, and allows no more. What the sidecar says now.
    pub(super) fn close(&self) -> Recorded {
        let mut state = self.lock();
        state.file = None;
        state.recorded.clone()
    }

    /// Whether the disk failed to take what was written.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    fn write(&self, recorded: &Recorded) -> io::Result<()> {
        let text = compose(&self.key, recorded)?;
        let on_its_way = self.pair.state.with_extension("new");
        let written = (|| {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(SPOOL_MODE);
            let mut file = options.open(&on_its_way)?;
            file.write_all(&text)?;
            file.sync_all()?;
            crash::point(Point::SidecarWritten);
            fs::rename(&on_its_way, &self.pair.state)
        })();
        if written.is_err() {
            remove(&on_its_way);
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder for Sidecar {
    fn record(&self, recorded: &Recorded) -> io::Result<()> {
        // Held while the disk works: whoever drops the spool waits, and finds one truth.
        let mut state = self.lock();
        let file = state.file.clone().ok_or_else(|| io::Error::other("the spool is gone"))?;
        if state.failed {
            return Err(io::Error::other("the disk did not take what was written before"));
        }
        let recorded = Recorded { landed: bounded(&recorded.landed), size: recorded.size };
        let end = recorded.landed.end();
        if end > file.metadata()?.len() || recorded.size.is_some_and(|size| end > size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has not been written"));
        }
        if let Err(cause) = file.sync_data() {
            state.failed = true;
            return Err(cause);
        }
        crash::point(Point::DataSynced);
        self.write(&recorded)?;
        state.recorded = recorded;
        crash::point(Point::SidecarRenamed);
        if let Some(dir) = self.pair.state.parent() {
            File::open(dir)?.sync_all()?;
        }
        crash::point(Point::Recorded);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> SpoolKey {
        SpoolKey { upstream: "docker.io".parse().unwrap(), digest: Digest::sha256(b"a blob") }
    }

    proptest! {
        #[test]
        fn what_is_composed_is_parsed(
            spans in prop::collection::vec((0..1_000_u64, 1..100_u64), 0..20),
            sized in any::<bool>(),
        ) {
            let landed: Spans = spans.into_iter().map(|(at, len)| at..at + len).collect();
            let recorded = Recorded { size: sized.then_some(landed.end() + 7), landed };
            let text = compose(&key(), &recorded).unwrap();
            prop_assert_eq!(parse(&text), Ok((key(), recorded)));
        }

        #[test]
        fn a_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let recorded = Recorded { landed: Spans::of(0..5_000), size: Some(9_000) };
            let whole = compose(&key(), &recorded).unwrap();
            let mut text = whole.clone();
            let at = at.index(text.len() - 1);
            text[at] ^= flip;
            prop_assert!(parse(&text).is_err(), "{}", String::from_utf8_lossy(&text));
            prop_assert!(parse(&whole[..at]).is_err());
        }

        #[test]
        fn no_text_is_a_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&text).is_err());
        }
    }

    #[test]
    fn spans_that_contradict_one_another_are_refused() {
        for landed in ["[[5,5]]", "[[5,4]]", "[[0,9],[8,10]]", "[[0,11]]", "[[4,6],[0,2]]"] {
            let digest = key().digest;
            let line = format!(
                "{{\"version\":1,\"upstream\":\"docker.io\",\"digest\":\"{digest}\",\"size\":10,\
                 \"landed\":{landed}}}"
            );
            let text = format!("{line}\n{}\n", Digest::sha256(line.as_bytes()).encoded());
            assert_eq!(parse(text.as_bytes()), Err("not of this format"), "{landed}");
        }
    }

    #[test]
    fn the_smallest_of_too_many_parts_are_left_out() {
        let many = RECORDED_SPANS_MAX as u64 + 10;
        let mut landed: Spans = (0..many).map(|n| n * 10..n * 10 + 2).collect();
        landed.insert(1_000_000..2_000_000);
        let kept = bounded(&landed);
        assert_eq!(kept.iter().len(), RECORDED_SPANS_MAX);
        assert!(kept.covers_all(1_000_000..2_000_000));
        let text = compose(&key(), &Recorded { landed: kept, size: Some(u64::MAX) }).unwrap();
        assert!(text.len() as u64 <= SIDECAR_BYTES_MAX);
        parse(&text).unwrap();
    }

    #[test]
    fn names_tell_upstreams_blobs_and_files_apart() {
        let dir = Path::new("spool");
        let other = SpoolKey { upstream: "ghcr.io".parse().unwrap(), ..key() };
        let pair = Pair::new(dir, &key(), 7);
        assert_ne!(pair, Pair::new(dir, &other, 7));
        assert_ne!(pair, Pair::new(dir, &key(), 8));
        for path in [&pair.part, &pair.state] {
            assert_eq!(number_of(path.file_name().unwrap().to_str().unwrap()), Some(7));
        }
        assert_eq!(number_of("00000000000000ff"), Some(255));
        assert_eq!(number_of("README"), None);
    }
}
