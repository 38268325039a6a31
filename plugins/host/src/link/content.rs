//! Content of the cache.

use std::sync::Arc;

use wasmtime::component::Resource;

use crate::grants::ContentKind;
use crate::judge;
use crate::outside::OpenBlob;
use crate::state::{Mount, State};
use crate::wit::imports::content::{ContentError, Descriptor, Host, HostBlob, Reference};

/// A piece of a blob, in bytes, at most.
const PIECE_BYTES_MAX: u32 = 1 << 20;

/// A manifest, in bytes, at most.
const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// What refers to one manifest, at most.
const REFERRERS_MAX: usize = 1000;

impl State {
    /// The mount, if it grants this.
    fn reads(
        &mut self,
        kind: ContentKind,
        reference: &Reference,
    ) -> Result<Arc<Mount>, ContentError> {
        self.called();
        let grant = self.mount.grants().content.as_ref().filter(|_| !self.is_configuring());
        // What is no name at all reaches nobody who would have to make sense of it.
        if judge::reference(reference).is_err() {
            return Err(ContentError::NotFound);
        }
        if !grant.is_some_and(|grant| grant.covers(kind, reference)) {
            return Err(ContentError::Denied);
        }
        self.counted()?;
        Ok(Arc::clone(&self.mount))
    }

    /// One reading more, if the mount allows it: each may cost an upstream something.
    fn counted(&mut self) -> Result<(), ContentError> {
        let used = || ContentError::Other("the call has read as often as its mount may".to_owned());
        self.content_calls_left = self.content_calls_left.checked_sub(1).ok_or_else(used)?;
        Ok(())
    }

    async fn manifest_of(
        &mut self,
        reference: &Reference,
    ) -> Result<(Descriptor, Vec<u8>), ContentError> {
        let mount = self.reads(ContentKind::Manifest, reference)?;
        let content = &mount.outside.content;
        let (descriptor, bytes) = content.manifest(&mount.spec.name, reference).await?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ContentError::TooLarge(MANIFEST_BYTES_MAX as u64));
        }
        Ok((descriptor, bytes.into()))
    }

    async fn referrers_of(
        &mut self,
        reference: &Reference,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, ContentError> {
        let mount = self.reads(ContentKind::Referrers, reference)?;
        let content = &mount.outside.content;
        let mut found = content.referrers(&mount.spec.name, reference, artifact_type).await?;
        found.truncate(REFERRERS_MAX);
        Ok(found)
    }
}

impl Host for State {
    async fn manifest(
        &mut self,
        reference: Reference,
    ) -> wasmtime::Result<Result<(Descriptor, Vec<u8>), ContentError>> {
        Ok(self.manifest_of(&reference).await)
    }

    async fn open(
        &mut self,
        reference: Reference,
    ) -> wasmtime::Result<Result<Resource<OpenBlob>, ContentError>> {
        let mount = match self.reads(ContentKind::Blob, &reference) {
            Ok(mount) => mount,
            Err(error) => return Ok(Err(error)),
        };
        let opened = mount.outside.content.open(&mount.spec.name, &reference).await;
        match opened {
            // Too many handles end the call.
            Ok(blob) => Ok(Ok(self.handles.push(OpenBlob(blob))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn referrers(
        &mut self,
        reference: Reference,
        artifact_type: Option<String>,
    ) -> wasmtime::Result<Result<Vec<Descriptor>, ContentError>> {
        Ok(self.referrers_of(&reference, artifact_type.as_deref()).await)
    }
}

impl HostBlob for State {
    async fn descriptor(&mut self, blob: Resource<OpenBlob>) -> wasmtime::Result<Descriptor> {
        self.called();
        Ok(self.handles.get(&blob)?.0.descriptor())
    }

    async fn read(
        &mut self,
        blob: Resource<OpenBlob>,
        offset: u64,
        max: u32,
    ) -> wasmtime::Result<Result<Vec<u8>, ContentError>> {
        self.called();
        let blob = Arc::clone(&self.handles.get(&blob)?.0);
        if let Err(error) = self.counted() {
            return Ok(Err(error));
        }
        let max = max.min(PIECE_BYTES_MAX);
        Ok(blob.read(offset, max).await.map(|bytes| {
            let end = bytes.len().min(max as usize);
            bytes.slice(..end).into()
        }))
    }

    async fn drop(&mut self, blob: Resource<OpenBlob>) -> wasmtime::Result<()> {
        self.handles.delete(blob)?;
        Ok(())
    }
}
