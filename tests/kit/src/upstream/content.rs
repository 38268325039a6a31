//! What an upstream holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use crate::random::Random;

/// The bytes of a blob or manifest.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Held(Bytes),
    Random(Random),
}

impl Data {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Held(bytes) => bytes.len() as u64,
            Self::Random(random) => random.len(),
        }
    }

    pub(super) fn part(&self, offset: u64, len: usize) -> Bytes {
        match self {
            Self::Held(bytes) => bytes.slice(offset as usize..offset as usize + len),
            Self::Random(random) => random.part(offset, len).into(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) bytes: Bytes,
    pub(super) media_type: String,
}

#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) manifests: HashMap<String, Manifest>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) blobs: BTreeSet<String>,
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) blobs: HashMap<String, Data>,
    pub(super) repositories: HashMap<String, Repository>,
}

impl Content {
    pub(super) fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    /// The manifest and its digest.
    pub(super) fn manifest(&self, name: &str, reference: &str) -> Option<(String, Manifest)> {
        let repository = self.repositories.get(name)?;
        let digest = if reference.contains(':') {
            reference
        } else {
            repository.tags.get(reference)?.as_str()
        };
        Some((digest.to_owned(), repository.manifests.get(digest)?.clone()))
    }

    pub(super) fn blob(&self, name: &str, digest: &str) -> Option<Data> {
        self.repositories.get(name)?.blobs.contains(digest).then_some(())?;
        self.blobs.get(digest).cloned()
    }
}
