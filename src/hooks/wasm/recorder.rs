//! Calls of a mount, written down as cases for `pierhead plugin test` and `pierhead plugin diff`.
//!
//! A case has who asked for what, with the configuration of the mount and the facts that were
//! known: whoever can read the file knows what is pulled. It has no credentials and no secrets;
//! authenticators are not recorded. No call waits for the file: what the queue cannot hold is left
//! out.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use pierhead_plugin_tools::case::{Case, FILE_BYTES_MAX, document};
use tokio::sync::mpsc;

use crate::background::Tasks;

/// Cases that wait to be written; further ones are left out.
const QUEUE_CASES_MAX: usize = 256;

/// Cases that are written at once.
const BATCH_CASES: usize = 64;

/// The largest file, in bytes: what `plugin test` reads. Nothing is written beyond it.
const RECORDING_BYTES_MAX: u64 = FILE_BYTES_MAX;

/// Writes cases to a file. Cheap to clone; the last one ends the task.
#[derive(Clone, Debug)]
pub(super) struct Recorder(mpsc::Sender<Case>);

impl Recorder {
    /// Appends to `path`, which is made with mode 0600 if it is not there.
    pub(super) fn start(path: PathBuf, tasks: &Tasks) -> Self {
        let (queue, cases) = mpsc::channel(QUEUE_CASES_MAX);
        tasks.spawn("plugin_recording", write(path, cases));
        Self(queue)
    }

    /// Notes a case, if there is room for it. It is only made then.
    pub(super) fn note(&self, case: impl FnOnce() -> Case) {
        if let Ok(place) = self.0.try_reserve() {
            place.send(case());
        }
    }
}

async fn write(path: PathBuf, mut cases: mpsc::Receiver<Case>) {
    let mut batch = Vec::with_capacity(BATCH_CASES);
    while cases.recv_many(&mut batch, BATCH_CASES).await > 0 {
        let (to, whole) = (path.clone(), std::mem::take(&mut batch));
        let written = tokio::task::spawn_blocking(move || append(&to, &whole)).await;
        match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(path = %path.display(), "the recording is full, and ends here");
                return;
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "calls cannot be recorded");
                return;
            }
        }
    }
}

/// Whether there was room.
fn append(path: &Path, cases: &[Case]) -> io::Result<bool> {
    let mut file = open(path)?;
    let mut room = RECORDING_BYTES_MAX.saturating_sub(file.metadata()?.len());
    let mut text = String::new();
    for case in cases {
        let document = document(case).map_err(io::Error::other)?;
        let bytes = document.len() as u64;
        if bytes > room {
            file.write_all(text.as_bytes())?;
            return Ok(false);
        }
        room -= bytes;
        text.push_str(&document);
    }
    file.write_all(text.as_bytes())?;
    Ok(true)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use pierhead_plugin_tools::case::read;
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;

    fn case(name: &str) -> Case {
        let yaml = serde_json::json!({
            "name": name,
            "call": { "hook": "request-policy", "reference": "docker.io/library/debian:12" },
            "expect": { "decision": "abstain" },
        });
        serde_json::from_value::<Case>(yaml).unwrap()
    }

    #[tokio::test]
    async fn what_is_recorded_is_read_again() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("calls.yaml");
        let (queue, waiting) = mpsc::channel(QUEUE_CASES_MAX);
        let recorder = Recorder(queue);
        recorder.note(|| case("one"));
        recorder.note(|| case("two: with \"marks\"\n---\n"));
        drop(recorder);
        write(path.clone(), waiting).await;
        let cases = read(&path).unwrap();
        let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["one", "two: with \"marks\"\n---\n"]);
        assert_eq!(cases[0].config, Value::Null);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
