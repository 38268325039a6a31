//! What is stored, in the order of digests.

use std::fs;
use std::io;

use super::files::file_names;
use super::{ALGORITHMS, SHARD_DIGITS, Shared};
use crate::oci::Digest;
use crate::store::StoreError;

impl Shared {
    /// See [`BlobStore::list`](crate::store::BlobStore::list).
    pub(super) fn list_blobs(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        let mut page = Vec::new();
        let from_algorithm = after.map_or(ALGORITHMS[0], Digest::algorithm);
        for algorithm in ALGORITHMS.into_iter().filter(|algorithm| *algorithm >= from_algorithm) {
            let dir = self.blobs.join(algorithm.as_str());
            let after = after.filter(|after| after.algorithm() == algorithm);
            let from_shard = after.map(|after| after.encoded()[..SHARD_DIGITS].to_owned());
            let mut shards = file_names(&dir)?;
            shards.retain(|shard| {
                shard.len() == SHARD_DIGITS && from_shard.as_ref().is_none_or(|from| shard >= from)
            });
            shards.sort_unstable();
            for shard in shards {
                let dir = dir.join(&shard);
                let mut digests: Vec<Digest> = file_names(&dir)?
                    .into_iter()
                    .filter_map(|name| format!("{algorithm}:{name}").parse().ok())
                    // A copy in a directory that is not its own is no blob.
                    .filter(|digest: &Digest| digest.encoded().starts_with(&shard))
                    .filter(|digest| after.is_none_or(|after| digest > after))
                    .collect();
                digests.sort_unstable();
                for digest in digests {
                    if page.len() >= limit {
                        return Ok(page);
                    }
                    let path = self.blob_path(&digest);
                    match fs::metadata(&path) {
                        Ok(metadata) => page.push((digest, metadata.len())),
                        // Removed meanwhile.
                        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                        Err(cause) => {
                            return Err(StoreError::io(
                                format!("look at {}", path.display()),
                                cause,
                            ));
                        }
                    }
                }
            }
        }
        Ok(page)
    }
}
