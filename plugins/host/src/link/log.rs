//! Lines of the log, within a budget for each call.

use crate::outside::LogLine;
use crate::state::State;
use crate::wit::Level;
use crate::wit::imports::log::Host;

/// What a line costs besides its text, in bytes.
const LINE_BYTES: usize = 32;

/// Fields of one line, at most. More of them are dropped with the line.
const FIELDS_MAX: usize = 64;

impl Host for State {
    fn enabled(&mut self, level: Level) -> wasmtime::Result<bool> {
        self.called();
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
            fields.iter().map(|(key, value)| (printable(key), printable(value))).collect();
        self.mount.outside.log.write(LogLine {
            mount: &self.mount.spec.name,
            plugin: &self.mount.digest,
            request_id: &self.request_id,
            level,
            message: &printable(&message),
            fields: &fields,
        });
        Ok(())
    }
}

/// A line stays a line, and a terminal is not told what to do.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
