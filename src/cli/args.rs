//! What can stand on the command line, and the help that teaches it.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::node_config::NodeConfigArgs;

/// A pull-through cache for container images: one registry between your clients and the others.
#[derive(Debug, Parser)]
#[command(name = "pierhead", version, after_long_help = AFTER_HELP, after_help = "See --help for examples.")]
pub(super) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve the registry API and the operator's side until SIGTERM
    #[command(after_help = AFTER_SERVE)]
    Serve {
        /// Configuration in TOML; PIERHEAD_CONFIG names one too. None is read without being named
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check a configuration, or see every key
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the files that make a client pull through Pierhead
    ///
    /// The files go to the standard output, hints on where they belong to the standard error.
    #[command(after_help = AFTER_NODE_CONFIG)]
    NodeConfig(NodeConfigArgs),
}

/// The commands about configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Judge what `serve` would run with: exit status 0 and `FILE: ok`, or 1 and what is wrong
    ///
    /// Errors name file, line and column. Variables PIERHEAD_SECTION__KEY count as they do for
    /// `serve`; the files of passwords, tokens and certificates are read. Nothing is started.
    Check {
        /// The file; without it the one that PIERHEAD_CONFIG names, else zero configuration
        file: Option<PathBuf>,
    },
    /// Print a commented example of every key, with the defaults
    Example,
}

const AFTER_SERVE: &str = "\
Ready means: `listening on http://ADDR` was printed and /readyz answers 200.
Exit status: 0 after a drain, 1 if serving failed, 2 if the configuration is not right.";

const AFTER_NODE_CONFIG: &str = "\
Examples:
  pierhead node-config docker --url http://127.0.0.1:5000
  pierhead node-config containerd --url https://mirror.example --ca-file ca.pem --write /
  pierhead node-config podman --url http://10.0.0.5:5000 --upstream docker.io --upstream quay.io
Exit status: 0 done, 1 a file could not be read or written, 2 the command line or the configuration
is not right, or the client cannot do what was asked.";

const AFTER_HELP: &str = "\
Zero configuration:
  pierhead serve
  mirrors docker.io, ghcr.io, quay.io, gcr.io, registry.k8s.io, public.ecr.aws and
  mcr.microsoft.com on 127.0.0.1:5000. The operator's side (/metrics, /livez, /readyz) is on
  127.0.0.1:5001. What was pulled is kept in ./pierhead-data ([storage] path).

Pulling through it:
  docker pull 127.0.0.1:5000/library/alpine           bare names are Docker Hub's
  docker pull 127.0.0.1:5000/ghcr.io/OWNER/IMAGE      the first part can name the registry
  /etc/docker/daemon.json: { \"registry-mirrors\": [\"http://127.0.0.1:5000\"] }

With a configuration:
  pierhead config example > pierhead.toml
  pierhead config check pierhead.toml
  pierhead serve --config pierhead.toml
  PIERHEAD_STORAGE__PATH=/var/lib/pierhead PIERHEAD_UPSTREAM__DOCKER_IO__TAG_TTL=5m pierhead serve

Environment:
  PIERHEAD_CONFIG           the configuration file, where --config is not given
  PIERHEAD_SECTION__KEY     one key's value, over that of the file";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_contract_parses() {
        for line in [
            "pierhead serve",
            "pierhead serve --config f",
            "pierhead config check",
            "pierhead config check f",
            "pierhead config example",
            "pierhead node-config docker --url http://127.0.0.1:5000",
            "pierhead node-config k3s --url https://m.example --every-registry --output json",
            "pierhead node-config podman --url http://m:5000 --upstream a --upstream b:5000 --write d",
        ] {
            Args::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "pierhead",
            "pierhead serve f",
            "pierhead config",
            "pierhead sreve",
            "pierhead node-config docker",
            "pierhead node-config rkt --url http://m",
            "pierhead node-config k3s --url http://m --force",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn the_help_names_every_built_in_upstream() {
        let config = crate::config::load(None, []).unwrap();
        for (upstream, _) in &config.upstreams {
            assert!(AFTER_HELP.contains(upstream.name.as_str()), "{}", upstream.name);
        }
    }
}
