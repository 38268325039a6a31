//! The keys that sign tokens, and their file.
//!
//! The file has a line for each key, the newest first: its name, the second since 1970 in which it
//! was made, and its bytes in hexadecimal. The newest one signs. An older one verifies until the
//! last token that it may have signed has ended.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::jwt::MacKey;
use super::settings::TOKEN_TTL_MAX;
use super::{KEY_BYTES, LEEWAY};
use crate::clock::Timestamp;
use crate::private_file::{self, FileError};
use crate::secret::Secret;

/// The keys' file below `storage.path`.
pub const KEY_FILE: &str = "token.key";

/// How old a key becomes before a new one signs.
pub const KEY_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The most keys that the file may have.
const KEYS_MAX: usize = 8;

/// The largest file, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// How many random bytes name a key.
const KEY_ID_BYTES: usize = 8;

/// What the file begins with.
const OPENING: &str =
    "# The keys of pierhead's tokens. Remove this file and restart: all tokens end.\n";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read, written or protected.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file's content is no list of keys.
    #[error(
        "line {line} of {} is no key; remove the file and `pierhead serve` writes a new one: clients \
         log in again by themselves",
        path.display()
    )]
    Content {
        /// Which file.
        path: PathBuf,
        /// The first line that is wrong; 0 if the file has no key.
        line: usize,
    },
    /// The system has no random bytes.
    #[error("cannot get random bytes: {0}")]
    Random(getrandom::Error),
}

/// One key.
struct Key {
    id: String,
    made: Timestamp,
    hex: Secret,
    mac: MacKey,
}

impl Key {
    fn new(id: String, made: Timestamp, bytes: &[u8; KEY_BYTES]) -> Self {
        Self { id, made, hex: Secret::new(hex::encode(bytes)), mac: MacKey::new(bytes) }
    }

    fn make(now: Timestamp) -> Result<Self, KeyError> {
        let (mut id, mut bytes) = ([0; KEY_ID_BYTES], [0; KEY_BYTES]);
        getrandom::fill(&mut id).map_err(KeyError::Random)?;
        getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
        Ok(Self::new(hex::encode(id), now, &bytes))
    }

    /// Reads a line of the file.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (id, made, text) = (words.next()?, words.next()?, words.next()?);
        let is_id = id.len() <= 2 * KEY_ID_BYTES && id.bytes().all(|b| b.is_ascii_alphanumeric());
        let seconds = made.parse::<u64>().ok()?;
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        let made = Timestamp::from_unix_ms(seconds.checked_mul(1000)?);
        (is_id && words.next().is_none()).then(|| Self::new(id.to_owned(), made, &bytes))
    }
}

/// The keys, the newest first; there is always one. Cheap to clone.
#[derive(Clone)]
pub(super) struct KeyRing {
    keys: Arc<[Arc<Key>]>,
}

impl KeyRing {
    /// The keys in the file at `path`; makes the first one if there is no file. Blocks.
    pub(super) fn open(path: &Path, now: Timestamp) -> Result<Self, KeyError> {
        if private_file::find(path, "the keys of tokens")? {
            return Self::read(path);
        }
        let ring = Self { keys: [Arc::new(Key::make(now)?)].into() };
        ring.write(path)?;
        Ok(ring)
    }

    fn read(path: &Path) -> Result<Self, KeyError> {
        let content = |line| KeyError::Content { path: path.to_owned(), line };
        let text = private_file::read(path, KEY_FILE_BYTES_MAX)?;
        let text = String::from_utf8(text).map_err(|_| content(0))?;
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let key = Key::read(line).filter(|_| keys.len() < KEYS_MAX);
            keys.push(Arc::new(key.ok_or_else(|| content(index + 1))?));
        }
        if keys.is_empty() { Err(content(0)) } else { Ok(Self { keys: keys.into() }) }
    }

    fn write(&self, path: &Path) -> Result<(), KeyError> {
        let mut text = OPENING.to_owned();
        for key in &*self.keys {
            let seconds = key.made.unix_ms() / 1000;
            text.push_str(&format!("{} {seconds} {}\n", key.id, key.hex.expose()));
        }
        Ok(private_file::write(path, text.as_bytes())?)
    }

    /// The key that signs, and its name.
    pub(super) fn newest(&self) -> Option<(&str, &MacKey)> {
        self.keys.first().map(|key| (key.id.as_str(), &key.mac))
    }

    /// The key of that name.
    pub(super) fn find(&self, id: &str) -> Option<&MacKey> {
        self.keys.iter().find(|key| key.id == id).map(|key| &key.mac)
    }

    /// The keys as they should be now, if that is different: a new one where the newest has become
    /// old, and none that can have no token left. They are written before they are used. Blocks.
    pub(super) fn renewed(&self, path: &Path, now: Timestamp) -> Result<Option<Self>, KeyError> {
        let mut keys: Vec<Arc<Key>> = self.keys.to_vec();
        if keys.first().is_none_or(|newest| now.since(newest.made) >= KEY_AGE_MAX) {
            keys.insert(0, Arc::new(Key::make(now)?));
        }
        // A key signs until the next one is made.
        let mut newer_made = None;
        keys.retain(|key| {
            let last_signed: Option<Timestamp> = newer_made.replace(key.made);
            last_signed.is_none_or(|at| now.since(at) < TOKEN_TTL_MAX + LEEWAY)
        });
        keys.truncate(KEYS_MAX);
        let same = keys.iter().map(|key| &key.id).eq(self.keys.iter().map(|key| &key.id));
        if same {
            return Ok(None);
        }
        let renewed = Self { keys: keys.into() };
        renewed.write(path)?;
        Ok(Some(renewed))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

    fn ids(ring: &KeyRing) -> Vec<String> {
        ring.keys.iter().map(|key| key.id.clone()).collect()
    }

    #[test]
    fn a_key_is_made_once_and_does_not_print() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let ring = KeyRing::open(&path, NOW).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(ids(&KeyRing::open(&path, NOW).unwrap()), ids(&ring));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let secret = text.split_ascii_whitespace().last().unwrap();
        assert_eq!(secret.len(), 2 * KEY_BYTES);
        assert!(!format!("{ring:?}").contains(secret));
    }

    #[test]
    fn an_old_key_verifies_until_its_tokens_have_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let first = KeyRing::open(&path, NOW).unwrap();
        let second = Duration::from_secs(1);
        let due = NOW.plus(KEY_AGE_MAX);
        let before = Timestamp::from_unix_ms(due.unix_ms() - 1);
        assert!(first.renewed(&path, before).unwrap().is_none());
        let both = first.renewed(&path, due).unwrap().unwrap();
        assert_eq!(ids(&both).len(), 2);
        assert_eq!(ids(&both)[1], ids(&first)[0]);
        // It is on disk before it is used.
        assert_eq!(ids(&KeyRing::open(&path, due).unwrap()), ids(&both));
        let end = due.plus(TOKEN_TTL_MAX + LEEWAY);
        let nearly = Timestamp::from_unix_ms(end.unix_ms() - 1);
        assert!(both.renewed(&path, nearly).unwrap().is_none());
        let last = both.renewed(&path, end).unwrap().unwrap();
        assert_eq!(ids(&last), ids(&both)[..1]);
        assert!(last.find(&ids(&first)[0]).is_none());
        assert!(last.renewed(&path, end.plus(second)).unwrap().is_none());
        // After a month of rest the old key has nothing left to verify.
        let rested = last.renewed(&path, end.plus(2 * KEY_AGE_MAX)).unwrap().unwrap();
        assert_eq!(ids(&rested).len(), 2);
    }

    #[test]
    fn a_clock_that_goes_back_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let ring = KeyRing::open(&path, NOW).unwrap();
        assert!(ring.renewed(&path, Timestamp::from_unix_ms(0)).unwrap().is_none());
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let good = format!("a1 1700000000 {}\n", "0f".repeat(KEY_BYTES));
        for (text, wrong) in [
            (String::new(), 0),
            ("# nothing\n".to_owned(), 0),
            (format!("{good}\nb"), 3),
            (format!("a 1 {}", "0f".repeat(KEY_BYTES - 1)), 1),
            (format!("a -1 {}", "0f".repeat(KEY_BYTES)), 1),
            (format!("a! 1 {}", "0f".repeat(KEY_BYTES)), 1),
            (format!("a 18446744073709551615 {}", "0f".repeat(KEY_BYTES)), 1),
            (good.repeat(KEYS_MAX + 1), KEYS_MAX + 1),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = KeyRing::open(&path, NOW).unwrap_err();
            let KeyError::Content { line, .. } = error else { panic!("{text:?}: {error}") };
            assert_eq!(line, wrong, "{text:?}");
        }
        std::fs::write(&path, format!("# ours\n\n{good}")).unwrap();
        assert_eq!(ids(&KeyRing::open(&path, NOW).unwrap()), ["a1"]);
    }
}
