//! Lines of the log, within a budget for each call.

use crate::outside::LogLine;
use crate::state::State;
use crate::visible::on_one_line;
use crate::wit::Level;
use crate::wit::imports::log::Host;

/// What a line costs besides its text, in bytes.
const LINE_BYTES: usize = 32;

/// Fields of one line, at most. More of them are dropped with the line.
const FIELDS_MAX: usize = 64;

impl Host for State {
    fn enabled(&mut self, level: Level) -> wasmtime::Result<bool> {
        self.called();
        // Who listens changes; a snapshot does not.
        if self.is_configuring() {
            return Ok(true);
        }
        Ok(self.mount.outside.log.enabled(&self.mount.spec.name, level))
    }

    fn write(
        &mut self,
        level: Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.called();
        if !self.mount.outside.log.enabled(&self.mount.spec.name, level) {
            return Ok(());
        }
        let text: usize = fields.iter().map(|(key, value)| key.len() + value.len()).sum();
        let bytes = LINE_BYTES + message.len() + text;
        match self.log_bytes_left.checked_sub(bytes) {
            Some(left) if fields.len() <= FIELDS_MAX => self.log_bytes_left = left,
            _ => {
                self.log_dropped = self.log_dropped.saturating_add(1);
                return Ok(());
            }
        }
        let fields: Vec<_> =
            fields.iter().map(|(key, value)| (on_one_line(key), on_one_line(value))).collect();
        self.mount.outside.log.write(LogLine {
            mount: &self.mount.spec.name,
            plugin: &self.mount.digest,
            request_id: &self.request_id,
            level,
            message: &on_one_line(&message),
            fields: &fields,
        });
        Ok(())
    }
}
