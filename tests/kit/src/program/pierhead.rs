//! Pierhead itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tempfile::TempDir;

use super::Child;
use crate::{http, wait_until};

const START: Duration = Duration::from_secs(30);
/// Longer than the drain of a server whose clients are gone.
const END: Duration = Duration::from_secs(60);
/// How long fills may take that somebody has read to the end.
const FILLS: Duration = Duration::from_secs(60);

/// How to start a Pierhead.
#[derive(Clone, Debug)]
pub struct Options {
    binary: PathBuf,
    config: String,
    env: Vec<(String, String)>,
}

impl Options {
    /// That binary, as a rule `env!("CARGO_BIN_EXE_pierhead")`.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self { binary: binary.into(), config: String::new(), env: Vec::new() }
    }

    /// The configuration. `server.listen`, `server.admin_listen` and `storage.path` are added
    /// where they are missing.
    pub fn config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it; panics with its logs where it does not come up.
    #[track_caller]
    pub fn start(self) -> Pierhead {
        self.try_start().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts it. An error tells how it ended, with its logs.
    pub fn try_start(self) -> Result<Pierhead, String> {
        let dir = TempDir::with_prefix("pierhead-").expect("a temporary directory");
        let mut pierhead = Pierhead {
            storage: dir.path().join("storage"),
            options: self,
            url: String::new(),
            admin_url: String::new(),
            child: None,
            dir,
        };
        pierhead.write_config("127.0.0.1:0", "127.0.0.1:0");
        pierhead.launch()?;
        Ok(pierhead)
    }
}

/// A running Pierhead with a configuration, a storage and ports of its own.
#[derive(Debug)]
pub struct Pierhead {
    // Before the directory, so that the process ends first.
    child: Option<Child>,
    options: Options,
    url: String,
    admin_url: String,
    storage: PathBuf,
    dir: TempDir,
}

impl Pierhead {
    /// Starts that binary with a configuration; see [`Options::config`].
    #[track_caller]
    pub fn start(binary: impl Into<PathBuf>, config: &str) -> Self {
        Options::new(binary).config(config).start()
    }

    fn write_config(&mut self, listen: &str, admin_listen: &str) {
        let parsed = self.options.config.parse::<toml::Table>();
        let mut config = parsed.expect("the test's configuration is TOML");
        let mut set = |table: &str, key: &str, value: &str| {
            let table = config.entry(table).or_insert_with(|| toml::Table::new().into());
            let table = table.as_table_mut().expect("a table");
            if !table.contains_key(key) {
                table.insert(key.to_owned(), value.to_owned().into());
            }
            table[key].as_str().unwrap_or_default().to_owned()
        };
        set("server", "listen", listen);
        set("server", "admin_listen", admin_listen);
        let storage = self.storage.to_str().expect("a path in UTF-8").to_owned();
        self.storage = set("storage", "path", &storage).into();
        fs::write(self.config_path(), config.to_string()).expect("a file");
    }

    fn launch(&mut self) -> Result<(), String> {
        let mut command = Command::new(&self.options.binary);
        command.arg("serve").arg("--config").arg(self.config_path());
        command.current_dir(self.dir.path());
        command.envs(self.options.env.iter().map(|(n, v)| (n, v)));
        let mut child = Child::spawn("pierhead", command, self.dir.path());
        let (url, admin_url) =
            child.try_wait_ready("lines with both addresses", START, |child| {
                let address = |before: &str| {
                    let rest = child.line_after(before)?;
                    let host = rest.split_whitespace().next()?.trim_end_matches('/');
                    let scheme = before.rsplit(' ').next()?;
                    Some(format!("{scheme}{host}"))
                };
                let registry =
                    address("listening on http://").or_else(|| address("listening on https://"))?;
                let admin = address("admin on http://").or_else(|| address("admin on https://"))?;
                Some((registry, admin))
            })?;
        self.url = url;
        self.admin_url = admin_url;
        self.child = Some(child);
        Ok(())
    }

    /// `http://127.0.0.1:PORT` of the registry; `https://` where it has TLS.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `127.0.0.1:PORT` of the registry.
    pub fn host(&self) -> &str {
        self.url.split_once("://").map_or(self.url.as_str(), |(_, host)| host)
    }

    /// `http://127.0.0.1:PORT` of the operator's side.
    pub fn admin_url(&self) -> &str {
        &self.admin_url
    }

    /// Where it keeps its data.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// The file it reads its configuration from.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("pierhead.toml")
    }

    /// Changes the configuration on disk, at the same addresses. SIGHUP or a restart makes it read
    /// that.
    pub fn set_config(&mut self, toml: &str) {
        toml.clone_into(&mut self.options.config);
        let (own, admin) = (self.host().to_owned(), host(&self.admin_url).to_owned());
        self.write_config(&own, &admin);
    }

    /// The bearer token of the operator's side.
    pub fn admin_token(&self) -> String {
        let token = fs::read_to_string(self.storage.join("admin.token"));
        token.expect("serve writes admin.token").trim().to_owned()
    }

    /// Sends SIGHUP.
    pub fn hangup(&self) {
        self.child.as_ref().expect("it runs").signal(rustix::process::Signal::HUP);
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").pid()
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it runs")
    }

    /// What it has logged so far (standard error).
    pub fn stderr(&self) -> String {
        self.child.as_ref().map(Child::stderr).unwrap_or_default()
    }

    /// `/metrics`.
    #[track_caller]
    pub fn metrics(&self) -> String {
        http::get(format!("{}/metrics", self.admin_url)).expect(200).text()
    }

    /// The sum of all samples of that name that carry these labels; 0 where there is none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metric(&self.metrics(), name, labels)
    }

    /// Waits until no fill runs and the store has what was fetched: clients have the last byte a
    /// moment before.
    #[track_caller]
    pub fn wait_for_fills(&self) {
        // A metric that has another name now would count as none.
        assert!(self.metric("pierhead_tasks_running", &[]) > 0.0, "some task always runs");
        wait_until("no fill runs", FILLS, || {
            (self.metric("pierhead_tasks_running", &[("kind", "fill")]) == 0.0).then_some(())
        });
    }

    /// Memory that is really its own: `RssAnon` + `RssShmem`, without mapped files.
    pub fn rss_anon_shmem_bytes(&self) -> u64 {
        let pid = self.child.as_ref().expect("it runs").pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|n| n.parse::<u64>().ok()).expect("a number of kB")
        };
        (kib("RssAnon:") + kib("RssShmem:")) * 1024
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.child().terminate(END)
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.child().kill9();
    }

    /// Starts it again with the same storage, at the same addresses; ends it by SIGTERM before, if
    /// it runs.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.child().status().is_none() {
            self.terminate();
        }
        let (own, admin) = (self.host().to_owned(), host(&self.admin_url).to_owned());
        self.child = None;
        self.write_config(&own, &admin);
        if let Err(why) = self.launch() {
            panic!("{why}");
        }
    }
}

fn host(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, host)| host)
}

/// Sums the samples of a metric in Prometheus' text format.
fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (own, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let own = parse_labels(own);
        let fits = labels.iter().all(|(name, value)| own.get(*name).is_some_and(|v| v == value));
        fits.then(|| value.split_whitespace().next()?.parse::<f64>().ok())?
    });
    samples.sum()
}

fn parse_labels(mut text: &str) -> BTreeMap<&str, String> {
    let mut labels = BTreeMap::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => {}
                },
                other => value.push(other),
            }
        }
        labels.insert(name.trim_start_matches([',', ' ']), value);
        text = &rest[end..];
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::metric;

    #[test]
    fn metrics_are_summed_over_the_labels_left_out() {
        let text = "# HELP a_total x\na_total{x=\"1\",y=\"q\\\"}\"} 2\na_total{x=\"2\"} 3.5\n\
            a_total_more 9\nb 4 1700000000\n";
        assert_eq!(metric(text, "a_total", &[]), 5.5);
        assert_eq!(metric(text, "a_total", &[("y", "q\"}")]), 2.0);
        assert_eq!(metric(text, "a_total", &[("x", "3")]), 0.0);
        assert_eq!(metric(text, "b", &[]), 4.0);
    }
}
