//! The operator's token: a secret in a file that only the user who runs Pierhead can read.
//!
//! Whoever can read `<storage.path>/admin.token` could read and remove everything else there too,
//! so the token gives away nothing that the file system did not.

use std::path::{Path, PathBuf};

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::oci::Digest;
use crate::private_file::{self, FileError};
use crate::secret::Secret;

/// The token's file below `storage.path`.
pub const TOKEN_FILE: &str = "admin.token";

/// How many random bytes a new token has.
const TOKEN_RANDOM_BYTES: usize = 32;

/// The shortest token that is taken, in characters: operators may bring their own.
const TOKEN_CHARS_MIN: usize = 32;

/// The longest file that is read, in bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read, written or protected.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file's content is no token.
    #[error(
        "{} holds no token: it has to be one line of {TOKEN_CHARS_MIN} or more visible ASCII \
         characters; remove the file and `pierhead serve` writes a new one",
        path.display()
    )]
    Content {
        /// Which file.
        path: PathBuf,
    },
    /// The system has no random bytes.
    #[error("cannot get random bytes: {0}")]
    Random(getrandom::Error),
}

/// The token of this process. Only its hash is kept.
#[derive(Clone, Debug)]
pub struct AdminToken {
    hash: Digest,
    path: PathBuf,
}

impl AdminToken {
    /// The token in `storage`, made if there is none.
    ///
    /// A file that others may read is made private, with a warning: whoever could read it may have
    /// done so, and only the operator knows whether that matters.
    ///
    /// # Errors
    /// When the file cannot be read, written or protected, or holds no token.
    pub fn open(storage: &Path) -> Result<Self, TokenError> {
        let path = storage.join(TOKEN_FILE);
        let token = if private_file::find(&path, "the operator's token")? {
            read(&path)?
        } else {
            create(&path)?
        };
        Ok(Self { hash: hash(token.expose()), path })
    }

    /// Where the token is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a request presents the token, as `Authorization: Bearer TOKEN`.
    ///
    /// Hashes are compared, so that the time that it takes tells nothing about the token.
    pub fn is_presented(&self, headers: &HeaderMap) -> bool {
        headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .is_some_and(|(_, token)| hash(token.trim()) == self.hash)
    }
}

/// The token in `path`: for the server, and for commands that talk to it.
///
/// # Errors
/// When the file cannot be read or holds no token.
pub fn read(path: &Path) -> Result<Secret, TokenError> {
    let content = || TokenError::Content { path: path.to_owned() };
    let text = private_file::read(path, TOKEN_FILE_BYTES_MAX)?;
    let text = String::from_utf8(text).map_err(|_| content())?;
    let token = text.trim_end_matches(['\n', '\r']);
    let is_token = token.len() >= TOKEN_CHARS_MIN && token.bytes().all(|b| b.is_ascii_graphic());
    if is_token { Ok(Secret::new(token)) } else { Err(content()) }
}

/// Writes a new token.
fn create(path: &Path) -> Result<Secret, TokenError> {
    let mut bytes = [0; TOKEN_RANDOM_BYTES];
    getrandom::fill(&mut bytes).map_err(TokenError::Random)?;
    let token = hex::encode(bytes);
    private_file::write(path, format!("{token}\n").as_bytes())?;
    Ok(Secret::new(token))
}

fn hash(token: &str) -> Digest {
    Digest::sha256(token.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use http::HeaderValue;

    use super::*;

    fn presenting(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_token_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        // What a crash left behind does not disturb.
        fs::write(dir.path().join("admin.token.new"), "half").unwrap();
        let made = AdminToken::open(dir.path()).unwrap();
        let path = dir.path().join(TOKEN_FILE);
        assert_eq!(made.path(), path);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, private_file::PRIVATE_MODE);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim_end().len(), 2 * TOKEN_RANDOM_BYTES);
        let again = AdminToken::open(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert!(again.is_presented(&presenting(&format!("Bearer {}", text.trim_end()))));
        assert!(!format!("{made:?}").contains(text.trim_end()));
        let other = tempfile::tempdir().unwrap();
        AdminToken::open(other.path()).unwrap();
        assert_ne!(fs::read_to_string(other.path().join(TOKEN_FILE)).unwrap(), text);
    }

    #[test]
    fn only_the_token_is_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let own = "a-token-that-an-operator-brought-along";
        fs::write(dir.path().join(TOKEN_FILE), format!("{own}\n")).unwrap();
        let token = AdminToken::open(dir.path()).unwrap();
        for good in [format!("Bearer {own}"), format!("bearer  {own} ")] {
            assert!(token.is_presented(&presenting(&good)), "{good}");
        }
        let upper = own.to_ascii_uppercase();
        for bad in
            ["", "Bearer", "Bearer ", own, &format!("Basic {own}"), &format!("Bearer {upper}")]
        {
            assert!(!token.is_presented(&presenting(bad)), "{bad}");
        }
        assert!(!token.is_presented(&HeaderMap::new()));
    }

    #[test]
    fn a_file_that_others_can_read_becomes_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TOKEN_FILE);
        fs::write(&path, "x".repeat(TOKEN_CHARS_MIN)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        AdminToken::open(dir.path()).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            private_file::PRIVATE_MODE
        );
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TOKEN_FILE);
        for bad in [&b""[..], b"short", &[b'a'; 31], &[b'a'; 5000][..2], b"\xff\xfe", &[b' '; 40]] {
            fs::write(&path, bad).unwrap();
            let error = AdminToken::open(dir.path()).unwrap_err();
            assert!(matches!(error, TokenError::Content { .. }), "{bad:?}: {error}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(AdminToken::open(dir.path()), Err(TokenError::File(_))));
    }
}
