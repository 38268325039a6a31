//! What was found out about content.

use std::time::Duration;

use crate::judge;
use crate::state::State;
use crate::visible;
use crate::wit::Fact;
use crate::wit::imports::facts::Host;

/// A fact's JSON, in bytes, at most.
const FACT_BYTES_MAX: usize = 64 << 10;

/// A fact's name, in bytes, at most.
const NAME_BYTES_MAX: usize = 128;

impl Host for State {
    fn about(&mut self, subject: String, name: Option<String>) -> wasmtime::Result<Vec<Fact>> {
        self.called();
        // What is known changes; a snapshot does not.
        if self.is_configuring() || !judge::is_digest(&subject) {
            return Ok(Vec::new());
        }
        Ok(self.mount.outside.facts.about(&subject, name.as_deref()))
    }

    fn state(
        &mut self,
        subject: String,
        name: String,
        json: String,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<(), String>> {
        self.called();
        Ok(self.stated(&subject, &name, &json, ttl_ms))
    }
}

impl State {
    fn stated(
        &self,
        subject: &str,
        name: &str,
        json: &str,
        ttl_ms: Option<u64>,
    ) -> Result<(), String> {
        if self.is_configuring() {
            return Err("nothing can be stated during configure".to_owned());
        }
        if !self.mount.grants().facts_write() {
            return Err("the mount does not grant it: grants.facts = { write = true }".to_owned());
        }
        if !judge::is_digest(subject) {
            return Err("the subject is not a digest".to_owned());
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(visible::is_hidden) {
            return Err("the name is empty, too long or not printable".to_owned());
        }
        if json.len() > FACT_BYTES_MAX {
            return Err(format!("a fact has at most {FACT_BYTES_MAX} bytes"));
        }
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(json) {
            return Err(format!("not JSON: {error}"));
        }
        let ttl = ttl_ms.map(Duration::from_millis);
        self.mount.outside.facts.state(&self.mount.spec.name, subject, name, json, ttl)
    }
}
