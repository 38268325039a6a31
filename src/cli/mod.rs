//! The commands, one file each; `args` is their grammar.
//!
//! Commands that ask a running Pierhead take a [`client::Client`] and answer with the API's own
//! JSON, or with text made from the same types. To add one: a file here, a line in `args`, and a
//! line in [`main`].

mod args;
mod change;
mod client;
mod config;
mod explain;
mod images;
mod log_level;
mod mounts;
mod node_config;
mod output;
mod plugin;
mod progress;
mod scrub;
mod serve;
mod status;
mod storage;
mod transfer;
mod warm;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use self::args::{Args, Command, ConfigCommand};
use self::client::{Client, block_on};
use self::output::{Console, Exit};
use crate::app;
use crate::config::{Config, ConfigError};

/// Names the configuration file where no argument does.
const CONFIG_VARIABLE: &str = "PIERHEAD_CONFIG";

/// The environment.
type Variables = Vec<(OsString, OsString)>;

/// The program: parses the arguments and does what they say.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let variables: Variables = variables.into_iter().collect();
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are "errors" that go to the standard output.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Yes };
            // Nobody is left to tell when the output is closed.
            let _ = error.print();
            return exit.into();
        }
    };
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let console = &mut Console::new(&mut out, &mut err);
    // A command that asks a running Pierhead.
    macro_rules! asked {
        ($args:ident, $command:path) => {{
            let done = Client::new(&$args.target, &variables)
                .and_then(|client| block_on($command(&$args, &client, console)));
            done.unwrap_or_else(|failure| console.fail(&failure, $args.output.format))
        }};
    }
    let exit = match args.command {
        Command::Serve { config } => serve::serve(config, variables, app::serve, console),
        Command::Config(ConfigCommand::Check { file, output }) => {
            config::check(file, variables, output.format, console)
        }
        Command::Config(ConfigCommand::Example) => config::example(console),
        Command::Status(args) => asked!(args, status::status),
        Command::Explain(args) => asked!(args, explain::explain),
        Command::Images(args) => asked!(args, images::images),
        Command::Refresh(args) => asked!(args, change::refresh),
        Command::Purge(args) => asked!(args, change::purge),
        Command::Gc(args) => asked!(args, storage::collect),
        Command::Scrub(args) => asked!(args, scrub::scrub),
        Command::Pin(args) => asked!(args, storage::pin),
        Command::Unpin(args) => asked!(args, storage::unpin),
        Command::Pins(args) => asked!(args, storage::pins),
        Command::LogLevel(args) => asked!(args, log_level::log_level),
        Command::Warm(args) => {
            let done = block_on(warm::warm(&args, variables, console));
            done.unwrap_or_else(|failure| console.fail(&failure, args.output.format))
        }
        Command::Export(args) => {
            let done = block_on(transfer::export(&args, &variables, console));
            done.unwrap_or_else(|failure| console.fail(&failure, args.output.format))
        }
        Command::Import(args) => {
            let done = block_on(transfer::import(&args, &variables, console));
            done.unwrap_or_else(|failure| console.fail(&failure, args.output.format))
        }
        Command::Plugin(command) => plugin::plugin(command, &variables, console),
        Command::NodeConfig(args) => node_config::node_config(&args, variables, console),
    };
    exit.into()
}

/// A variable's value, if it is set to something.
fn variable(variables: &[(OsString, OsString)], name: &str) -> Option<String> {
    let found = variables.iter().find(|(key, value)| key == name && !value.is_empty());
    found.map(|(_, value)| value.to_string_lossy().into_owned())
}

/// The configuration that `serve` runs with, and what to call it: the file that the argument or
/// the variable names, else none. A `pierhead.toml` that happens to lie around is not read.
fn load(file: Option<PathBuf>, variables: Variables) -> (String, Result<Config, ConfigError>) {
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
    (name, crate::config::load(file.as_deref(), variables))
}
