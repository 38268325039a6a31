//! How commands talk: text for people, JSON for scripts, and the exit status for both.

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

/// How a command ended, in the numbers that scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It worked; where it was a question, the answer is yes.
    Yes,
    /// It failed, or the answer is no.
    No,
    /// The command line or the configuration is not right.
    Usage,
    /// The server could not be reached, or it refused us.
    NoServer,
}

impl Exit {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Yes => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::NoServer => 3,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The exit status.
    pub(super) exit: Exit,
    /// One word for scripts.
    pub(super) code: String,
    /// What happened.
    pub(super) message: String,
    /// What to do about it.
    pub(super) help: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, code: &str, message: impl ToString) -> Self {
        Self { exit, code: code.to_owned(), message: message.to_string(), help: None }
    }

    /// The command line or the configuration is not right.
    pub(super) fn usage(message: impl ToString) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What a command says to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Text,
    /// For scripts
    Json,
}

/// The two outputs of the process, or of a test.
pub(super) struct Console<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    terminal: bool,
}

impl<'a> Console<'a> {
    pub(super) fn new(out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        Self { out, err, terminal: io::stdout().is_terminal() }
    }

    /// Whether somebody looks at the output.
    pub(super) const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes to the standard output. That nobody listens any more (`| head`) is no failure.
    pub(super) fn say(&mut self, text: &str) -> Exit {
        self.tell(text).map_or(Exit::No, |_| Exit::Yes)
    }

    /// As [`Console::say`]; whether anybody still listens.
    pub(super) fn tell(&mut self, text: &str) -> io::Result<bool> {
        written(self.out, text)
    }

    /// Writes to the standard error.
    pub(super) fn complain(&mut self, text: &str) {
        // Nobody is left to tell.
        let _ = written(self.err, text);
    }

    /// Says why a command did not do what it was asked to; scripts are told in JSON too.
    pub(super) fn fail(&mut self, failure: &Failure, format: Format) -> Exit {
        let Failure { exit, code, message, help } = failure;
        if format == Format::Json {
            let mut error = serde_json::json!({ "code": code, "message": message });
            if let Some(help) = help {
                error["help"] = help.as_str().into();
            }
            self.say(&format!("{}\n", serde_json::json!({ "error": error })));
        }
        self.complain(&format!("pierhead: {}\n", printable(message)));
        if let Some(help) = help {
            self.complain(&format!("  {}\n", printable(help)));
        }
        *exit
    }
}

fn written(to: &mut dyn Write, text: &str) -> io::Result<bool> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// What others wrote, without what would steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Columns that line up.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these titles.
    pub(super) fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()] }
    }

    /// Lines of names and values, without titles.
    pub(super) const fn bare() -> Self {
        Self { rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = impl ToString>) {
        let cells = cells.into_iter().map(|cell| printable(&cell.to_string()).replace('\n', " "));
        self.rows.push(cells.collect());
    }

    /// The lines, each after `indent`.
    pub(super) fn text(&self, indent: &str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A digest that people can still tell from others.
pub(super) fn short(digest: &str) -> String {
    let digits = digest.split_once(':').map_or(digest, |(_, digits)| digits);
    digits.chars().take(12).collect()
}

/// A number of bytes in the units of the configuration.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // What would round to 1024.0 belongs to the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// So many of something: `1 blob`, `2 blobs`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// A length of time, to the two largest units.
pub(super) fn period(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 1.0 {
        return format!("{:.0}ms", seconds * 1000.0);
    }
    let whole = Duration::from_secs(seconds.min(1e15) as u64);
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_steer_no_terminal() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(["\u{1b}[31mred", "x\ny"]);
        assert_eq!(table.text("  "), "  A         LONG\n  \u{fffd}[31mred  x y\n");
    }

    #[test]
    fn units_are_human() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5_500_000_000, "5.1 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in
            [(0.0, "0ms"), (0.25, "250ms"), (61.7, "1m 1s"), (90_061.0, "1day 1h"), (f64::NAN, "?")]
        {
            assert_eq!(period(seconds), text);
        }
    }

    #[test]
    fn failures_are_told_to_people_and_scripts() {
        let failure = Failure::new(Exit::No, "not_found", "there is no x").help("try y");
        for (format, expected) in [
            (Format::Text, ""),
            (
                Format::Json,
                "{\"error\":{\"code\":\"not_found\",\"help\":\"try y\",\
                 \"message\":\"there is no x\"}}\n",
            ),
        ] {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let exit = Console::new(&mut out, &mut err).fail(&failure, format);
            assert_eq!(exit, Exit::No);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
            assert_eq!(String::from_utf8(err).unwrap(), "pierhead: there is no x\n  try y\n");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        struct Closed(io::ErrorKind);
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for (kind, exit) in
            [(io::ErrorKind::BrokenPipe, Exit::Yes), (io::ErrorKind::StorageFull, Exit::No)]
        {
            let mut err = Vec::new();
            assert_eq!(Console::new(&mut Closed(kind), &mut err).say("x"), exit);
        }
    }
}
