//! The commands: `pierhead serve`, `pierhead config check|example`, `pierhead node-config`.

mod args;
mod node_config;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use self::args::{Args, Command, ConfigCommand};
use crate::app;
use crate::config::{self, Config, ConfigError};

/// Names the configuration file where no argument does.
const CONFIG_VARIABLE: &str = "PIERHEAD_CONFIG";

/// Something failed.
const FAILURE: u8 = 1;

/// The command line or the configuration is not right.
const BAD_USAGE: u8 = 2;

/// The program: parses the arguments and does what they say.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let variables: Vec<_> = variables.into_iter().collect();
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are "errors" that go to the standard output.
            let code = if error.use_stderr() { BAD_USAGE } else { 0 };
            // Nobody is left to tell when the output is closed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let code = match args.command {
        Command::Serve { config } => serve(config, variables, app::serve, &mut err),
        Command::Config(ConfigCommand::Check { file }) => {
            check(file, variables, &mut out, &mut err)
        }
        Command::Config(ConfigCommand::Example) => say(&mut out, config::example::EXAMPLE),
        Command::NodeConfig(args) => match load(args.config.clone(), variables).1 {
            Ok(config) => node_config::run(&args, &config, &mut out, &mut err),
            Err(error) => {
                say(&mut err, &format!("{error}\n"));
                BAD_USAGE
            }
        },
    };
    ExitCode::from(code)
}

fn serve<E: std::fmt::Display>(
    file: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
    run: impl FnOnce(Config) -> Result<(), E>,
    err: &mut dyn Write,
) -> u8 {
    let (_, config) = load(file, variables);
    match config.map(run) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            say(err, &format!("pierhead: {error}\n"));
            FAILURE
        }
        Err(error) => {
            say(err, &format!("{error}\n"));
            BAD_USAGE
        }
    }
}

fn check(
    file: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let (name, config) = load(file, variables);
    match config {
        Ok(config) => {
            for notice in &config.notices {
                say(err, &format!("{name}: warning: {notice}\n"));
            }
            say(out, &format!("{name}: ok\n"))
        }
        Err(error) => {
            say(err, &format!("{error}\n"));
            FAILURE
        }
    }
}

/// The configuration that `serve` runs with, and what to call it: the file that the argument or
/// the variable names, else none. A `pierhead.toml` that happens to lie around is not read.
fn load(
    file: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
) -> (String, Result<Config, ConfigError>) {
    let from_variable = || {
        variables
            .iter()
            .find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty())
            .map(|(_, value)| PathBuf::from(value))
    };
    let file = file.or_else(from_variable);
    let name = file
        .as_ref()
        .map_or_else(|| "zero configuration".to_owned(), |file| file.display().to_string());
    (name, config::load(file.as_deref(), variables))
}

/// Writes all of `text`; 0 if that worked or nobody listens any more (`| head`).
fn say(to: &mut dyn Write, text: &str) -> u8 {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(_) => FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_variables() -> Vec<(OsString, OsString)> {
        Vec::new()
    }

    fn checked(
        file: Option<PathBuf>,
        variables: Vec<(OsString, OsString)>,
    ) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(file, variables, &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn check_says_ok_or_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        let name = file.display();
        std::fs::write(&file, "[storage]\nmax_size = \"1GiB\"").unwrap();
        let (code, out, err) = checked(Some(file.clone()), no_variables());
        assert_eq!((code, out), (0, format!("{name}: ok\n")));
        assert!(err.contains("warning: storage.max_size"), "{err}");
        std::fs::write(&file, "[server]\nlisen = 1").unwrap();
        let (code, out, err) = checked(Some(file.clone()), no_variables());
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.starts_with(&format!("{name}:2:1: ")), "{err}");
        // The variable is the argument's stand-in.
        let variable = vec![(OsString::from(CONFIG_VARIABLE), file.into_os_string())];
        assert_eq!(checked(None, variable).0, 1);
        let (code, out, _) = checked(None, no_variables());
        assert_eq!((code, out.as_str()), (0, "zero configuration: ok\n"));
    }

    #[test]
    fn check_judges_what_serve_would_run_with() {
        let variable = vec![("PIERHEAD_SERVER__LISEN".into(), "x".into())];
        assert_eq!(checked(None, variable).0, 1);
    }

    #[test]
    fn serve_tells_bad_configuration_from_failure() {
        let bad = vec![("PIERHEAD_SERVER__LISEN".into(), "x".into())];
        let run = |result: Result<(), &'static str>| move |_: Config| result;
        let mut err = Vec::new();
        assert_eq!(serve(None, bad, run(Ok(())), &mut err), BAD_USAGE);
        assert_eq!(serve(None, no_variables(), run(Ok(())), &mut err), 0);
        assert_eq!(serve(None, no_variables(), run(Err("why")), &mut err), FAILURE);
        assert!(String::from_utf8(err).unwrap().ends_with("pierhead: why\n"));
    }
}
