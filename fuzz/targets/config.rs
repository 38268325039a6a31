//! Any text is a configuration or an error, and both can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| pierhead::config::config_from_text(text));
