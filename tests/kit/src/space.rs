//! The space that files take, and file systems that have little of it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

/// What `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;

/// How often a [`SpaceSampler`] looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// The allocated bytes of everything below `path`, as `du` counts them. What goes away meanwhile
/// counts as nothing.
pub fn allocated_bytes(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let own = metadata.blocks() * BLOCK_BYTES;
    if !metadata.is_dir() {
        return own;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    own + entries.map(|entry| allocated_bytes(&entry.path())).sum::<u64>()
}

/// Looks at the space below a directory every 100 ms, until it is asked for the most it saw.
#[derive(Debug)]
pub struct SpaceSampler {
    most: Arc<AtomicU64>,
    samples: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SpaceSampler {
    /// Begins to look at `path`.
    pub fn watch(path: &Path) -> Self {
        let (most, samples) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (most, samples, stop) = (most.clone(), samples.clone(), stop.clone());
            let path = path.to_owned();
            move || {
                while !stop.load(Ordering::SeqCst) {
                    most.fetch_max(allocated_bytes(&path), Ordering::SeqCst);
                    samples.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(INTERVAL);
                }
            }
        });
        Self { most, samples, stop, thread: Some(thread) }
    }

    /// Ends the watch: the most bytes that were allocated, and how often that was looked at.
    pub fn most(mut self) -> (u64, u64) {
        self.end();
        (self.most.load(Ordering::SeqCst), self.samples.load(Ordering::SeqCst))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for SpaceSampler {
    fn drop(&mut self) {
        self.end();
    }
}

/// A file system in memory with room for little. Dropping it unmounts it.
#[derive(Debug)]
pub struct TinyFs {
    path: PathBuf,
    _dir: TempDir,
}

impl TinyFs {
    /// Mounts one of `bytes`; needs the right to mount.
    pub fn mount(bytes: u64) -> io::Result<Self> {
        let dir = TempDir::with_prefix("tiny-fs-")?;
        let path = dir.path().join("mnt");
        fs::create_dir(&path)?;
        let options = format!("size={bytes},mode=755");
        mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], &[&path])?;
        Ok(Self { path, _dir: dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all room that is left; dropping the answer gives it back.
    pub fn fill(&self) -> io::Result<Filler> {
        let filler = Filler(self.path.join("filler"));
        let mut file = fs::File::create(&filler.0)?;
        let block = [7; 4096];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(filler),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A file that takes the room of a [`TinyFs`].
#[derive(Debug)]
pub struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A directory that nobody can write to, as after a disk error that made the system remount it.
/// Files that were opened before can be written on. Dropping it ends that.
#[derive(Debug)]
pub struct ReadOnly(PathBuf);

impl ReadOnly {
    /// Makes what lies below `path` read-only; needs the right to mount.
    pub fn over(path: &Path) -> io::Result<Self> {
        mount(&["--bind"], &[path, path])?;
        // From here on it is unmounted whatever happens.
        let read_only = Self(path.to_owned());
        mount(&["-o", "remount,bind,ro"], &[path])?;
        Ok(read_only)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // Files that were opened meanwhile stay open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(options: &[&str], paths: &[&Path]) -> io::Result<()> {
    let output = Command::new("mount").args(options).args(paths).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}

impl Drop for TinyFs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            // Whoever still has a file open there lets go of it first.
            let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocated_bytes_are_whole_blocks_of_files_and_directories() {
        let dir = TempDir::new().unwrap();
        let empty = allocated_bytes(dir.path());
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), vec![1; 100_000]).unwrap();
        let full = allocated_bytes(dir.path());
        assert!(full >= empty + 100_000 && full < empty + 200_000, "{empty} {full}");
        let (most, samples) = SpaceSampler::watch(dir.path()).most();
        assert!(samples == 0 || most == full);
    }
}
