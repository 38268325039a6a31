//! Keys and values that outlive a call.

use crate::state::State;
use crate::wit::imports::kv::{Host, KvError};

impl State {
    /// The mount's grant, if the phase allows to use it. What `configure` does must depend on the
    /// settings alone: the snapshot of it is used again.
    fn kv(&mut self) -> Result<(&crate::grants::KvGrant, &crate::kv::Buckets, u64), KvError> {
        self.called();
        if self.is_configuring() {
            return Err(KvError::Other("there is no kv during configure".to_owned()));
        }
        let grant = self.mount.grants().kv.as_ref().ok_or(KvError::NoSuchBucket)?;
        Ok((grant, &self.mount.kv, (self.mount.outside.clock)()))
    }
}

impl Host for State {
    fn get(
        &mut self,
        bucket: String,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, KvError>> {
        Ok(self.kv().and_then(|(grant, kv, now)| kv.get(grant, &bucket, &key, now)))
    }

    fn set(
        &mut self,
        bucket: String,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<(), KvError>> {
        Ok(self
            .kv()
            .and_then(|(grant, kv, now)| kv.set(grant, &bucket, &key, (value, ttl_ms), now)))
    }

    fn delete(&mut self, bucket: String, key: String) -> wasmtime::Result<Result<(), KvError>> {
        Ok(self.kv().and_then(|(grant, kv, _)| kv.delete(grant, &bucket, &key)))
    }

    fn increment(
        &mut self,
        bucket: String,
        key: String,
        by: i64,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<i64, KvError>> {
        Ok(self
            .kv()
            .and_then(|(grant, kv, now)| kv.increment(grant, &bucket, &key, (by, ttl_ms), now)))
    }
}
