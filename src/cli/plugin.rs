//! `pierhead plugin`: what authors of plugins work with.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use pierhead_plugin_host::{Form, Hook, Inspection};
use pierhead_plugin_tools::case::{self, Case};
use pierhead_plugin_tools::run::{Ran, Runner};
use pierhead_plugin_tools::template::{Language, ProjectName, create};
use pierhead_plugin_tools::{answer, build, diff, inspect};
use serde_json::{Value, json};

use super::args::{Output, PluginListArgs};
use super::client::{Client, block_on};
use super::mounts;
use super::output::{Console, Exit, Failure, Format, Table, printable};

/// Where a project's cases are.
const CASES: &str = "tests";

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Make a project that builds and passes its own test at once
    New(NewArgs),
    /// Build the project in a directory into one file that can be mounted
    Build(BuildArgs),
    /// Run cases against a plugin, in the host that `serve` uses; exit status 1 if one fails
    ///
    /// Cases are YAML: a call, what the world answers, and what is expected. A recording of a
    /// running Pierhead is a file of cases too.
    Test(TestArgs),
    /// Tell what a plugin is and could do, without running it
    Inspect(InspectArgs),
    /// Show the plugins of a running Pierhead; exit status 1 if one is not well
    List(PluginListArgs),
    /// Tell which answers change between two versions of a plugin; exit status 1 if one does
    Diff(DiffArgs),
}

/// What `new` takes.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The plugin's name, and that of the directory
    #[arg(value_name = "NAME", value_parser = |name: &str| ProjectName::from_str(name))]
    name: ProjectName,
    /// What it is to be asked: request-policy, manifest-policy, authenticator, authorizer or
    /// resolver (in JavaScript: request-policy)
    #[arg(long, value_parser = |name: &str| Hook::from_str(name), default_value = "request-policy")]
    hook: Hook,
    /// What it is written in
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    lang: Lang,
    /// Where to write it; a directory of the plugin's name, if it is not said
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A language.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Lang {
    /// Rust, with the plugin SDK
    Rust,
    /// JavaScript, by way of npm
    Js,
}

impl From<Lang> for Language {
    fn from(lang: Lang) -> Self {
        match lang {
            Lang::Rust => Self::Rust,
            Lang::Js => Self::Js,
        }
    }
}

/// What `build` takes.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The project
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What `test` takes.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The plugin; that of the project here, if it is not said
    #[arg(value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// A file of cases, or a directory of them
    #[arg(long, default_value = CASES, value_name = "PATH")]
    cases: PathBuf,
    /// Show what the plugin logs
    #[arg(long)]
    log: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What `inspect` takes.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The plugin
    #[arg(value_name = "FILE")]
    plugin: PathBuf,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What `diff` takes.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The version that is in use
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The version that is to be used
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// A recording, or a file or directory of cases
    #[arg(long, default_value = CASES, value_name = "PATH")]
    recording: PathBuf,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Does what the command says.
pub(super) fn plugin(
    command: PluginCommand,
    variables: &[(OsString, OsString)],
    console: &mut Console<'_>,
) -> Exit {
    let (done, format) = match command {
        PluginCommand::New(args) => (new(&args, console), Format::Text),
        PluginCommand::Build(args) => (built(&args, console), args.output.format),
        PluginCommand::Test(args) => (block_on(test(&args, console)), args.output.format),
        PluginCommand::Inspect(args) => (inspected(&args, console), args.output.format),
        PluginCommand::List(args) => {
            let done = Client::new(&args.target, variables)
                .and_then(|client| block_on(mounts::list(&args, &client, console)));
            (done, args.output.format)
        }
        PluginCommand::Diff(args) => (block_on(differ(&args, console)), args.output.format),
    };
    done.unwrap_or_else(|failure| console.fail(&failure, format))
}

fn failed(code: &str, error: impl ToString) -> Failure {
    Failure::new(Exit::No, code, error)
}

fn new(args: &NewArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(args.name.as_str()));
    let written = create(&dir, &args.name, args.hook, args.lang.into())
        .map_err(|error| failed("new", error))?;
    let mut text = String::new();
    for path in written.iter().filter(|path| !path.components().any(|c| c.as_os_str() == "vendor"))
    {
        let _ = writeln!(text, "wrote {}", path.display());
    }
    let _ = write!(
        text,
        "\nnext:\n  cd {}\n  pierhead plugin build\n  pierhead plugin test\n",
        dir.display()
    );
    Ok(console.say(&text))
}

fn built(args: &BuildArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let plugin = build::build(&args.dir).map_err(|error| failed("build", error))?;
    show(&plugin, args.output.format, true, console)
}

fn inspected(args: &InspectArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    show(&args.plugin, args.output.format, false, console)
}

fn show(
    plugin: &Path,
    format: Format,
    with_mount: bool,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let inspection = inspect::inspect(plugin).map_err(|error| failed("inspect", error))?;
    let text = match format {
        Format::Json => format!("{}\n", json_of(plugin, &inspection)),
        Format::Text => text_of(plugin, &inspection, with_mount),
    };
    Ok(console.say(&text))
}

fn json_of(plugin: &Path, inspection: &Inspection) -> Value {
    json!({
        "file": plugin.display().to_string(),
        "digest": inspection.digest,
        "form": inspection.form,
        "bytes": inspection.bytes,
        "hooks": inspection.hooks,
        "configures": inspection.configures,
        "imports": inspection.imports,
        "grants": inspection.grants.iter().map(|grant| grant.name).collect::<Vec<_>>(),
        "metadata": inspection.metadata,
    })
}

fn text_of(plugin: &Path, inspection: &Inspection, with_mount: bool) -> String {
    let names =
        |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let hooks: Vec<_> = inspection.hooks.iter().map(|hook| hook.name()).collect();
    let imports: Vec<_> = inspection.imports.iter().map(String::as_str).collect();
    let grants: Vec<_> = inspection.grants.iter().map(|grant| grant.name).collect();
    let mut table = Table::bare();
    table.row(["file", &plugin.display().to_string()]);
    table.row(["digest", &inspection.digest]);
    table.row(["size", &format!("{} bytes", inspection.bytes)]);
    table.row([
        "form",
        match inspection.form {
            Form::Component => "component",
            Form::CoreModule => "core module (Pierhead makes the component)",
        },
    ]);
    table.row(["hooks", &names(&hooks)]);
    table.row(["imports", &names(&imports)]);
    table.row(["grants it needs", &names(&grants)]);
    if let Some(metadata) = &inspection.metadata {
        for (label, value) in [
            ("name", &metadata.name),
            ("version", &metadata.version),
            ("what it does", &metadata.description),
            ("license", &metadata.license),
            ("source", &metadata.source),
        ] {
            if !value.is_empty() {
                table.row([label, value]);
            }
        }
        if let Some(limits) = &metadata.limits {
            table.row(["limits it suggests", &limits.to_string()]);
        }
        if let Some(schema) = &metadata.settings_schema {
            table.row(["settings", &settings(schema)]);
        }
    }
    let mut text = table.text("");
    if with_mount {
        text.push_str(&mount(plugin, inspection));
    }
    text
}

/// The settings that a schema names.
fn settings(schema: &Value) -> String {
    let names = schema.get("properties").and_then(Value::as_object);
    let names: Vec<_> = names.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What to write into the configuration.
fn mount(plugin: &Path, inspection: &Inspection) -> String {
    let name = plugin.file_stem().unwrap_or_default().to_string_lossy();
    let path = plugin.canonicalize().unwrap_or_else(|_| plugin.to_owned());
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let name = if name.chars().all(is_bare) { name.into_owned() } else { toml_text(&name) };
    let mut text = format!(
        "\nto mount it:\n  [plugin.{name}]\n  source = {}\n",
        toml_text(&format!("file:{}", path.display()))
    );
    for grant in &inspection.grants {
        let _ = writeln!(text, "  {}", grant.line);
    }
    text
}

/// A basic string of TOML; JSON's escapes are a part of them.
fn toml_text(text: &str) -> String {
    Value::from(text).to_string()
}

fn bytes_of(plugin: &Path) -> Result<Bytes, Failure> {
    inspect::read(plugin).map(Bytes::from).map_err(|error| failed("read", error))
}

fn cases_of(path: &Path) -> Result<Vec<Case>, Failure> {
    let cases = case::read(path).map_err(|error| failed("cases", error))?;
    if cases.is_empty() {
        return Err(failed("cases", format!("there is no case in {}", path.display()))
            .help("write one: docs/plugins.md has the keys"));
    }
    Ok(cases)
}

/// The one plugin that lies in the directory.
fn the_plugin_here() -> Result<PathBuf, Failure> {
    let here = std::fs::read_dir(".").map_err(|error| failed("read", error))?;
    let mut found: Vec<PathBuf> = here
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(plugin), true) => Ok(plugin),
        (None, _) => Err(Failure::usage("there is no .wasm file here")
            .help("name one, or build the project first: pierhead plugin build")),
        (Some(_), false) => Err(Failure::usage("there are several .wasm files here; name one")),
    }
}

async fn test(args: &TestArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let plugin = match &args.plugin {
        Some(plugin) => plugin.clone(),
        None => the_plugin_here()?,
    };
    let wasm = bytes_of(&plugin)?;
    let cases = cases_of(&args.cases)?;
    let runner = Runner::new().map_err(|error| failed("host", error))?;
    let mut failures = 0;
    let mut results = Vec::new();
    for case in &cases {
        let ran = runner.run(&wasm, case).await.map_err(|error| failed("test", error))?;
        failures += usize::from(!ran.passed());
        match args.output.format {
            Format::Json => results.push(json!({
                "name": case.name,
                "passed": ran.passed(),
                "differences": ran.differences,
                "came": ran.came,
                "micros": ran.stats.as_ref().map(|stats| stats.duration.as_micros() as u64),
                "memory_peak_bytes": ran.stats.as_ref().map(|stats| stats.memory_peak_bytes),
                "log": ran.log,
            })),
            Format::Text => {
                console.say(&told(case, &ran, args.log));
            }
        }
    }
    let passed = cases.len() - failures;
    match args.output.format {
        Format::Json => {
            console.say(&format!(
                "{}\n",
                json!({ "passed": passed, "failed": failures, "cases": results })
            ));
        }
        Format::Text => {
            console.say(&format!("{passed} passed, {failures} failed\n"));
        }
    }
    Ok(if failures == 0 { Exit::Yes } else { Exit::No })
}

fn told(case: &Case, ran: &Ran, log: bool) -> String {
    let took = ran.stats.as_ref().map_or_else(String::new, |stats| {
        let (micros, memory) = (stats.duration.as_micros(), stats.memory_peak_bytes >> 10);
        format!(" ({micros} us, {memory} KiB)")
    });
    let verdict = if ran.passed() { "ok  " } else { "FAIL" };
    let mut text = printable(&format!("{verdict} {}{took}\n", case.name));
    for difference in &ran.differences {
        text.push_str(&printable(&format!("       {difference}\n")));
    }
    if !ran.passed() {
        text.push_str(&printable(&format!("       came: {}\n", answer::line(&ran.came))));
    }
    if log || !ran.passed() {
        for line in &ran.log {
            text.push_str(&printable(&format!("       log: {line}\n")));
        }
    }
    text
}

async fn differ(args: &DiffArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let (old, new) = (bytes_of(&args.old)?, bytes_of(&args.new)?);
    let cases = cases_of(&args.recording)?;
    let runner = Runner::new().map_err(|error| failed("host", error))?;
    let mut changes = Vec::new();
    for case in &cases {
        let change = diff::compare(&runner, &old, &new, case).await;
        changes.extend(change.map_err(|error| failed("diff", error))?);
    }
    let text = match args.output.format {
        Format::Json => {
            let listed: Vec<_> = changes
                .iter()
                .map(|change| json!({ "name": change.name, "old": change.old, "new": change.new }))
                .collect();
            format!("{}\n", json!({ "calls": cases.len(), "changes": listed }))
        }
        Format::Text => {
            let mut text = String::new();
            for change in &changes {
                let _ = writeln!(
                    text,
                    "{}\n  old: {}\n  new: {}",
                    printable(&change.name),
                    printable(&change.old),
                    printable(&change.new)
                );
            }
            let _ = writeln!(text, "{} of {} answers change", changes.len(), cases.len());
            text
        }
    };
    console.say(&text);
    Ok(if changes.is_empty() { Exit::Yes } else { Exit::No })
}
