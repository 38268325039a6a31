//! The mount's settings and its secrets.

use crate::state::State;
use crate::wit::imports::settings::Host;

impl Host for State {
    fn json(&mut self) -> wasmtime::Result<String> {
        self.called();
        Ok(self.mount.settings.clone())
    }

    fn secret(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        self.called();
        // A secret that is read now would become a part of the snapshot, and so of a file.
        if self.is_configuring() || !self.mount.grants().secrets.contains(&name) {
            return Ok(None);
        }
        Ok(self.mount.spec.secrets.get(&name).map(|secret| secret.expose().to_owned()))
    }
}
