//! What can stand on the command line, and the help that teaches it.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand};

use super::node_config::NodeConfigArgs;
use super::output::Format;
use super::plugin::PluginCommand;
use crate::oci::{Platform, PlatformError};

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
    /// Write plugins: make, build, test, compare and look into them
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Print the files that make a client pull through Pierhead
    ///
    /// The files go to the standard output, hints on where they belong to the standard error.
    #[command(after_help = AFTER_NODE_CONFIG)]
    NodeConfig(NodeConfigArgs),
    /// Fill the cache ahead of use: pull images through a running Pierhead and keep nothing here
    #[command(after_help = AFTER_WARM)]
    Warm(WarmArgs),
    /// Write cached images as an OCI image layout, to take them to a site without a network
    ///
    /// Exactly what was pulled goes out: of an image with several platforms those that are here.
    #[command(after_help = AFTER_TRANSFER)]
    Export(ExportArgs),
    /// Take in an OCI image layout: what `export` wrote, or skopeo, or docker buildx
    ///
    /// Every blob is verified. Doing it again changes nothing.
    #[command(after_help = AFTER_TRANSFER)]
    Import(ImportArgs),
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
    /// What an https URL takes.
    #[command(flatten)]
    pub(super) tls: TlsFiles,
}

/// The files of a connection with TLS.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct TlsFiles {
    /// Certificate authorities to trust beside the system's, in PEM form, for an https URL
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Our own certificate with its chain, in PEM form, where clients need one
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(super) cert: Option<PathBuf>,
    /// The key of that certificate, in PEM form
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(super) key: Option<PathBuf>,
}

/// `warm`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct WarmArgs {
    /// Images, as clients name them: debian:12, ghcr.io/owner/x@sha256:...
    #[arg(value_name = "IMAGE", required_unless_present = "from_file")]
    pub(super) images: Vec<String>,
    /// A file with one image a line; # begins a comment
    #[arg(long, value_name = "FILE")]
    pub(super) from_file: Option<PathBuf>,
    /// The platforms of images that have several: linux/amd64,linux/arm64, or `all`. Default:
    /// this machine's
    #[arg(long, value_name = "OS/ARCH|all", value_delimiter = ',')]
    pub(super) platform: Vec<WarmPlatform>,
    /// Layers that are pulled at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) concurrency: u8,
    /// Pin each image that was warmed, so that it is not evicted. Asks the operator's side
    #[arg(long)]
    pub(super) pin: bool,
    /// The registry listener, over server.listen of the configuration
    #[arg(long, value_name = "URL")]
    pub(super) registry: Option<String>,
    /// Whom to log in as, where the registry wants to know
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub(super) user: Option<String>,
    /// The file that holds the password, or a CI job's token
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(super) password_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
}

/// A platform to warm, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WarmPlatform {
    All,
    One(Platform),
}

impl FromStr for WarmPlatform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

/// `export`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Images, as clients name them: debian:12, ghcr.io/owner/x@sha256:...
    #[arg(value_name = "IMAGE", required_unless_present = "all", conflicts_with = "all")]
    pub(super) images: Vec<String>,
    /// Everything that is here
    #[arg(long)]
    pub(super) all: bool,
    /// Where to: a file, a directory (one that exists and is empty, or a name with a slash at its
    /// end), or - for the standard output
    #[arg(long, value_name = "FILE|DIR/|-")]
    pub(super) to: PathBuf,
    /// Only these platforms of images that have several: linux/amd64,linux/arm64
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub(super) platform: Vec<Platform>,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
}

/// `import`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// What to read: a tar file, a directory, or - for the standard input
    #[arg(value_name = "FILE|DIR|-")]
    pub(super) from: PathBuf,
    /// What to call the only image of the layout, where it has no full name
    #[arg(long = "as", value_name = "NAME:TAG")]
    pub(super) rename: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) target: Target,
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

/// `plugin list`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PluginListArgs {
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

const AFTER_NODE_CONFIG: &str = "\
Examples:
  pierhead node-config docker --url http://127.0.0.1:5000
  pierhead node-config containerd --url https://mirror.example --ca-file ca.pem --write /
  pierhead node-config podman --url http://10.0.0.5:5000 --upstream docker.io --upstream quay.io
Exit status: 0 done, 1 a file could not be read or written, 2 the command line or the configuration
is not right, or the client cannot do what was asked.";
const AFTER_WARM: &str = "\
Content is verified and thrown away here; the server keeps it. Ctrl-C ends this command and not the
fetches that the server has begun.
Examples:
  pierhead warm debian:12 ghcr.io/owner/app:1
  pierhead warm --from-file images.txt --platform linux/amd64,linux/arm64 --concurrency 8
Exit status: 0 all of them, 1 some failed (and are named), 2 the command line or the configuration is
not right, 3 no server answers.";

const AFTER_TRANSFER: &str = "\
A running Pierhead does it. Where nobody listens at server.admin_listen and no other was named with
--url or PIERHEAD_URL, the storage of the configuration is opened directly, by the user that it
belongs to. `import` makes one that is not there only where storage.path is set.
Examples:
  pierhead export debian:12 ghcr.io/owner/app:1 --to images.tar
  pierhead export --all --platform linux/amd64 --to - | ssh inside pierhead import -
  pierhead import layout.tar --as internal.example/app:1
Exit status: 0 all of it, 1 some of it failed (and is named), 2 the command line or the configuration
is not right, 3 the server could not be reached or refused us.";

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

Before and without a network:
  pierhead warm debian:12 ghcr.io/owner/app:1         fill the cache ahead of use
  pierhead export --all --to images.tar               take what was pulled to another site
  pierhead import images.tar                          and serve it there
  pierhead node-config containerd --url URL           the client's side of the mirror

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
            "pierhead node-config docker --url http://127.0.0.1:5000",
            "pierhead node-config k3s --url https://m.example --every-registry --output json",
            "pierhead node-config podman --url http://m:5000 --upstream a --upstream b:5000 --write d",
            "pierhead config check f --output json",
            "pierhead status",
            "pierhead status --watch",
            "pierhead warm a b:1 --platform all --concurrency 9",
            "pierhead warm --from-file f --platform linux/amd64,linux/arm/v7 --registry http://a --pin",
            "pierhead export a b:1 --to x.tar --platform linux/amd64,linux/arm/v7",
            "pierhead export --all --to - --output json --url http://a",
            "pierhead import - --as a/b:1",
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
            "pierhead node-config docker",
            "pierhead node-config rkt --url http://m",
            "pierhead node-config k3s --url http://m --force",
            "pierhead status --watch 0",
            "pierhead export --to x.tar",
            "pierhead warm",
            "pierhead warm a --platform amd64",
            "pierhead warm a --concurrency 0",
            "pierhead export a",
            "pierhead export a --all --to x",
            "pierhead export a --to x --platform amd64",
            "pierhead import",
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
