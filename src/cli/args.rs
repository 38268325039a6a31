//! What can stand on the command line, and the help that teaches it.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::output::Format;

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
    /// Show what a running Pierhead is doing; exit status 1 if it is not ready
    #[command(after_help = AFTER_CLIENT)]
    Status(StatusArgs),
    /// Tell what the next pull of an image would be, and why; exit status 1 if it would get nothing
    #[command(after_help = AFTER_CLIENT)]
    Explain(ExplainArgs),
    /// List what was pulled through, or show what is here of one image
    #[command(after_help = AFTER_CLIENT)]
    Images(ImagesArgs),
    /// Ask upstream what a tag means, however fresh the last answer is
    #[command(after_help = AFTER_CLIENT)]
    Refresh(ImageArgs),
    /// Forget a tag, a digest or a whole repository, and remove what nothing else uses
    ///
    /// Without a tag or digest the whole repository is meant. What clients are reading they read to
    /// its end; the next pull fetches anew.
    #[command(after_help = AFTER_CLIENT)]
    Purge(ImageArgs),
    /// Remove what the limits of upstreams forbid, and what no repository is known to have
    ///
    /// Nobody needs it: room is made by itself when it is wanted.
    #[command(after_help = AFTER_CLIENT)]
    Gc(AskArgs),
    /// Verify what is stored now, and remove what is damaged; exit status 1 if something is wrong
    #[command(after_help = AFTER_CLIENT)]
    Scrub(ScrubArgs),
    /// Keep an image, whatever else has to go; it need not be stored yet
    ///
    /// A pinned tag keeps whatever it means at the time.
    #[command(after_help = AFTER_CLIENT)]
    Pin(ImageArgs),
    /// Let a pinned image go when room is needed
    #[command(after_help = AFTER_CLIENT)]
    Unpin(ImageArgs),
    /// List the pinned images
    #[command(after_help = AFTER_CLIENT)]
    Pins(AskArgs),
    /// Show what is logged, or change it until the server ends
    #[command(after_help = AFTER_CLIENT)]
    LogLevel(LogLevelArgs),
}

/// In which form a command answers.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Output {
    /// In which form to answer
    #[arg(id = "output", long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) format: Format,
}

/// Which running Pierhead a command is about.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which Pierhead")]
pub(super) struct Target {
    /// Its configuration, which says where it listens and where its token is; PIERHEAD_CONFIG
    /// names one too
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where its operator's side is, over the configuration; PIERHEAD_URL names one too
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// The file that holds its token, over the configuration; PIERHEAD_TOKEN_FILE names one too
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Certificate authorities to trust beside the system's, in PEM form, for an https URL
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
}

/// `status`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Show it again every few seconds until interrupted; in JSON, one object a line
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    pub(super) watch: Option<NonZeroU32>,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
}

/// `explain`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The image as a client would write it; `latest` is meant where it has no tag
    pub(super) image: String,
    /// What containerd would send as `?ns=`
    #[arg(long, value_name = "REGISTRY")]
    pub(super) ns: Option<String>,
    /// Ask upstream too, by one HEAD
    #[arg(long)]
    pub(super) probe: bool,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
}

/// `images`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ImagesArgs {
    /// Show what is here of this image
    pub(super) image: Option<String>,
    /// Begin after this image: the last one of the page before
    #[arg(long, value_name = "IMAGE", conflicts_with = "image")]
    pub(super) after: Option<String>,
    /// List this many at most, up to 1000
    #[arg(long, value_name = "NUMBER", conflicts_with = "image")]
    pub(super) limit: Option<NonZeroU32>,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
}

/// `scrub`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ScrubArgs {
    /// Do not wait for the end: `pierhead scrub --last` tells later what was found
    #[arg(long)]
    pub(super) no_wait: bool,
    /// Only tell what the last whole round found
    #[arg(long, conflicts_with = "no_wait")]
    pub(super) last: bool,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
}

/// `gc` and `pins`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct AskArgs {
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
}

/// `refresh`, `purge`, `pin` and `unpin`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ImageArgs {
    /// The image as a client would write it
    pub(super) image: String,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
}

/// `log-level`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LogLevelArgs {
    /// A level, or levels of targets: `debug`, `info,pierhead::upstream=debug`
    pub(super) filter: Option<String>,
    /// Go back to what the configuration says
    #[arg(long, conflicts_with = "filter")]
    pub(super) reset: bool,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
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
        #[command(flatten)]
        output: Output,
    },
    /// Print a commented example of every key, with the defaults
    Example,
}

const AFTER_SERVE: &str = "\
Ready means: `listening on http://ADDR` was printed and /readyz answers 200.
Exit status: 0 after a drain, 1 if serving failed, 2 if the configuration is not right.";

const AFTER_CLIENT: &str = "\
The server is found by --url, else PIERHEAD_URL, else server.admin_listen of the configuration; its
token by --token-file, else PIERHEAD_TOKEN_FILE, else storage.path of the configuration.
Exit status: 0 yes or done, 1 no or failed, 2 the command line or the configuration is not right,
3 the server could not be reached or refused us.";

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

Asking a running one:
  pierhead status                                     what it is doing
  pierhead status --watch                             the same, again and again
  pierhead explain debian:12                          why a pull of it would be slow, stale or denied
  pierhead images                                     what is in the cache
  pierhead refresh debian:12                          see a moved tag at once
  pierhead purge ghcr.io/OWNER/IMAGE                  forget a repository
  pierhead pin debian:12                              keep it, whatever else has to go
  pierhead log-level info,pierhead::upstream=debug    until it ends

Exit status:
  0  yes, or done
  1  no, or failed
  2  the command line or the configuration is not right
  3  the server could not be reached, or it refused us

Environment:
  PIERHEAD_CONFIG           the configuration file, where --config is not given
  PIERHEAD_URL              the operator's side of the server to ask, where --url is not given
  PIERHEAD_TOKEN_FILE       the file with its token, where --token-file is not given
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
            "pierhead config check f --output json",
            "pierhead status",
            "pierhead status --watch",
            "pierhead explain debian:12 --probe --ns docker.io",
            "pierhead images",
            "pierhead images debian --output json",
            "pierhead images --after a/b:c --limit 7",
            "pierhead refresh debian",
            "pierhead purge debian@sha256:x",
            "pierhead gc",
            "pierhead scrub",
            "pierhead scrub --no-wait",
            "pierhead scrub --last --output json",
            "pierhead pin debian",
            "pierhead unpin debian",
            "pierhead pins --output json",
            "pierhead log-level",
            "pierhead log-level debug",
            "pierhead log-level --reset",
            "pierhead status --watch 5 --output json --url http://a --token-file t --ca-file c",
        ] {
            Args::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "pierhead",
            "pierhead serve f",
            "pierhead config",
            "pierhead sreve",
            "pierhead status --watch 0",
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
