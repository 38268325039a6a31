//! Who may read what: a blob is readable through a repository only if something proved that the
//! repository has it. Bytes are shared between repositories, access to them is not.

use std::sync::Arc;

use crate::oci::{Digest, Manifest};
use crate::scope::Scope;
use crate::store::{Hot, Link, LinkKind, MetaStore};

/// The links of all repositories, with the hot ones in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Links {
    meta: Arc<dyn MetaStore>,
    hot: Hot,
}

impl Links {
    /// Links kept in `meta`.
    pub fn new(meta: Arc<dyn MetaStore>, hot: Hot) -> Self {
        Self { meta, hot }
    }

    /// What is known of `digest` in `scope`, if it is known to be there. A store that fails knows
    /// nothing: upstream will be asked.
    pub async fn get(&self, scope: &Scope, digest: &Digest) -> Option<Arc<Link>> {
        if let Some(link) = self.hot.link(scope, digest) {
            return Some(link);
        }
        match self.meta.link(scope, digest).await {
            Ok(link) => {
                let link = link?;
                self.hot.put_link(scope, digest, link.clone());
                Some(Arc::new(link))
            }
            Err(error) => {
                tracing::error!(%scope, %digest, %error, "cannot read a link");
                None
            }
        }
    }

    /// Upstream has shown that `scope` has this blob. Sizes in links are what manifests promise;
    /// what upstream's headers say is about one answer and is not kept.
    pub async fn record_blob(&self, scope: &Scope, digest: &Digest) {
        if !self.get(scope, digest).await.is_some_and(|link| link.is_proven()) {
            let link = Link { size: None, media_type: None, kind: LinkKind::Blob };
            self.put(scope, vec![(*digest, link)]).await;
        }
    }

    /// Upstream has shown that `scope` has this manifest. What the manifest names is promised, not
    /// proven.
    pub async fn record_manifest(
        &self,
        scope: &Scope,
        digest: &Digest,
        size: u64,
        manifest: &Manifest,
    ) {
        let mut links = vec![(
            *digest,
            Link {
                size: Some(size),
                media_type: Some(manifest.media_type().as_str().to_owned()),
                kind: LinkKind::Manifest,
            },
        )];
        // Foreign layers need not be in the registry at all.
        links.extend(manifest.blobs().filter(|blob| !blob.foreign).map(|blob| {
            let link = Link { size: blob.size, media_type: None, kind: LinkKind::Named };
            (blob.digest, link)
        }));
        links.extend(manifest.children().iter().map(|child| {
            let link = Link {
                size: Some(child.size),
                media_type: None, // its own bytes say
                kind: LinkKind::Named,
            };
            (child.digest, link)
        }));
        self.put(scope, links).await;
    }

    async fn put(&self, scope: &Scope, links: Vec<(Digest, Link)>) {
        match self.meta.put_links(scope, &links).await {
            // The store merges what it knew with what is new; the next look brings that in.
            Ok(()) => links.iter().for_each(|(digest, _)| self.hot.forget_link(scope, digest)),
            Err(error) => {
                tracing::error!(%scope, %error, "cannot record links");
                // What this process has seen proven stays proven for it.
                for (digest, link) in links {
                    let merged = match self.hot.link(scope, &digest) {
                        Some(known) => Link::clone(&known).merged(link),
                        None => link,
                    };
                    self.hot.put_link(scope, &digest, merged);
                }
            }
        }
    }
}
