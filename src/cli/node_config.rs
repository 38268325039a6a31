//! `pierhead node-config`: the files that make a client pull through Pierhead.

mod clients;

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use url::Url;

use self::clients::{Client, File, Mirror, Mirrored, Recipe, RecipeError, Wanted};
use super::args::Output;
use super::output::{Console, Exit, Failure, Format};
use super::{Variables, load};
use crate::config::{Config, read_from_disk};
use crate::scope::UpstreamName;

/// The largest file of certificate authorities, in bytes.
const CA_BYTES_MAX: usize = 1 << 20;

/// What can be said about the files.
#[derive(Debug, Args)]
pub(super) struct NodeConfigArgs {
    /// Whose files
    #[arg(value_enum)]
    client: Client,
    /// Pierhead's registry listener as clients reach it: http://HOST:PORT or https://HOST
    #[arg(long, value_name = "URL", value_parser = mirror_url)]
    url: Url,
    /// Mirror this upstream; may stand several times. Default: every upstream of the
    /// configuration, the built-in ones included
    #[arg(long, value_name = "NAME", conflicts_with = "every_registry")]
    upstream: Vec<UpstreamName>,
    /// One entry for every registry, known to Pierhead or not (containerd, k3s)
    #[arg(long)]
    every_registry: bool,
    /// A PEM file with the authority that signed Pierhead's certificate, for an https URL
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Write the files below this directory (`/` for this machine) instead of printing them
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// With --write: replace files that are there
    #[arg(long, requires = "write")]
    force: bool,
    /// The configuration whose upstreams count; PIERHEAD_CONFIG names one too
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Why there are no files.
#[derive(Debug, thiserror::Error)]
enum NodeConfigError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error("--ca-file is for an https URL; {0} has no certificate")]
    CaWithoutTls(Url),
    #[error("cannot read {path}: {source}", path = .path.display())]
    ReadCa { path: PathBuf, source: io::Error },
    #[error("{path} holds no certificate in PEM form", path = .0.display())]
    NoCertificate(PathBuf),
    #[error("{path} holds a private key, which no client needs", path = .0.display())]
    PrivateKey(PathBuf),
    #[error("{path} is there already; --force replaces it", path = .0.display())]
    Exists(PathBuf),
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl From<NodeConfigError> for Failure {
    fn from(error: NodeConfigError) -> Self {
        match error {
            // What can be put right on the command line.
            NodeConfigError::Recipe(_) | NodeConfigError::CaWithoutTls(_) => Self::usage(error),
            NodeConfigError::Exists(_) => Self::new(Exit::No, "exists", error),
            _ => Self::new(Exit::No, "system", error),
        }
    }
}

/// Where clients find Pierhead: a registry is at the root of a host.
fn mirror_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| {
        "a URL starts with http:// or https://, such as http://127.0.0.1:5000".to_owned()
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("a URL starts with http:// or https:// and a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("leave out user and password: they would stand in every client's file".into());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("clients find a registry at the root of a host: leave out the path".to_owned());
    }
    Ok(url)
}

/// Prints or writes the files. In JSON: a list of objects with `path` and `content`.
pub(super) fn node_config(
    args: &NodeConfigArgs,
    variables: Variables,
    console: &mut Console<'_>,
) -> Exit {
    let done = match load(args.config.clone(), variables).1 {
        Ok(config) => perform(args, &config, console).map_err(Failure::from),
        Err(error) => Err(Failure::usage(error)),
    };
    done.unwrap_or_else(|failure| console.fail(&failure, args.output.format))
}

fn perform(
    args: &NodeConfigArgs,
    config: &Config,
    console: &mut Console<'_>,
) -> Result<Exit, NodeConfigError> {
    let (wanted, skipped) = wanted(args, config);
    let ca = args.ca_file.as_deref().map(|path| read_ca(path, &args.url)).transpose()?;
    let mirror = Mirror { url: args.url.clone(), wanted, ca };
    let Recipe { files, notes } = clients::recipe(args.client, &mirror)?;
    if let Some(root) = &args.write {
        write_files(root, &files, args.force)?;
    }
    let exit = match (args.output.format, &args.write) {
        (Format::Json, _) => console.say(&format!("{:#}\n", serde_json::json!(files))),
        (Format::Text, Some(root)) => {
            let written = files.iter().map(|f| format!("{}\n", below(root, &f.path).display()));
            console.say(&written.collect::<String>())
        }
        (Format::Text, None) => print(&files, console),
    };
    for note in skipped.iter().chain(&notes) {
        console.complain(&format!("note: {note}\n"));
    }
    Ok(exit)
}

/// The upstreams that the files should name, and what to say about those left out.
fn wanted(args: &NodeConfigArgs, config: &Config) -> (Wanted, Vec<String>) {
    if args.every_registry {
        return (Wanted::EveryRegistry, Vec::new());
    }
    let configured = || {
        config
            .naming
            .upstreams
            .iter()
            .map(|upstream| Mirrored { name: upstream.name.clone(), alias: upstream.alias.clone() })
    };
    if !args.upstream.is_empty() {
        let known = |name: &UpstreamName| configured().find(|upstream| upstream.name == *name);
        let asked = args.upstream.iter().map(|name| {
            known(name).unwrap_or_else(|| Mirrored { name: name.clone(), alias: None })
        });
        return (Wanted::Upstreams(asked.collect()), Vec::new());
    }
    // Nobody asked for these by name: what the client cannot do is left out, and said.
    let (fit, unfit): (Vec<_>, Vec<_>) = configured().partition(|upstream| match args.client {
        Client::Docker => upstream.name.as_str() == "docker.io",
        Client::Podman => !upstream.name.as_str().contains(':') || upstream.alias.is_some(),
        Client::Containerd | Client::Buildkit | Client::K3s => true,
    });
    let skipped = match args.client {
        Client::Podman => unfit
            .iter()
            .map(|u| format!("left out: {}", RecipeError::NeedsAlias(u.name.clone())))
            .collect(),
        // That dockerd asks for docker.io only is among its notes.
        _ => Vec::new(),
    };
    (Wanted::Upstreams(fit), skipped)
}

fn read_ca(path: &Path, url: &Url) -> Result<String, NodeConfigError> {
    if url.scheme() != "https" {
        return Err(NodeConfigError::CaWithoutTls(url.clone()));
    }
    let bytes = read_from_disk(path, CA_BYTES_MAX)
        .map_err(|source| NodeConfigError::ReadCa { path: path.to_owned(), source })?;
    let text =
        String::from_utf8(bytes).map_err(|_| NodeConfigError::NoCertificate(path.to_owned()))?;
    if text.contains("PRIVATE KEY-----") {
        return Err(NodeConfigError::PrivateKey(path.to_owned()));
    }
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(NodeConfigError::NoCertificate(path.to_owned()));
    }
    Ok(text)
}

/// Prints the files. The certificate is the caller's own: saying where it belongs is enough, and
/// leaves the standard output fit to be redirected into the one file.
fn print(files: &[File], console: &mut Console<'_>) -> Exit {
    let (own, certificates): (Vec<_>, Vec<_>) =
        files.iter().partition(|file| !file.path.ends_with(".crt"));
    let text: Vec<&str> = own.iter().map(|file| file.content.as_str()).collect();
    let exit = console.say(&text.join("\n"));
    for file in own {
        console.complain(&format!("note: it belongs in {}\n", file.path));
    }
    for file in certificates {
        console.complain(&format!("note: copy the --ca-file to {}\n", file.path));
    }
    exit
}

/// Where `path`, absolute on a client's machine, is when `root` stands for its root.
fn below(root: &Path, path: &str) -> PathBuf {
    let parts = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    parts.fold(root.to_owned(), |at, part| at.join(part))
}

/// Writes all files, or none where one is in the way and may not be replaced.
fn write_files(root: &Path, files: &[File], force: bool) -> Result<(), NodeConfigError> {
    let targets: Vec<_> = files.iter().map(|file| (below(root, &file.path), file)).collect();
    if !force && let Some((path, _)) = targets.iter().find(|(path, _)| path.exists()) {
        return Err(NodeConfigError::Exists(path.clone()));
    }
    for (path, file) in &targets {
        write_file(path, &file.content, force).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => NodeConfigError::Exists(path.clone()),
            _ => NodeConfigError::Write { path: path.clone(), source },
        })?;
    }
    Ok(())
}

/// Writes one file whole or not at all.
fn write_file(path: &Path, content: &str, force: bool) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".pierhead-new");
    let new = PathBuf::from(new);
    fs::write(&new, content)?;
    let placed = if force {
        fs::rename(&new, path)
    } else {
        // Unlike a rename, a link does not replace what came meanwhile.
        fs::hard_link(&new, path).and_then(|()| fs::remove_file(&new))
    };
    if placed.is_err() {
        // The message is about the placing; what stays behind is named after us.
        let _ = fs::remove_file(&new);
    }
    placed
}

#[cfg(test)]
mod tests;
