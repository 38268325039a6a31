//! Pebble, the ACME directory for tests of the people who run Let's Encrypt.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Child, require};
use crate::http::Request;
use crate::port::Port;
use crate::tls::{Authority, client};

/// A directory that issues certificates to whoever proves a name by TLS-ALPN-01 at one address.
/// It forgets everything when it ends.
#[derive(Debug)]
pub struct Pebble {
    child: Option<Child>,
    program: PathBuf,
    port: Port,
    management: Port,
    authority: Authority,
    dir: TempDir,
}

impl Pebble {
    /// One that is not started yet, so that its URL refuses connections. It will look for proofs at
    /// `prover` and issue certificates that are good for `lifetime`. `None` where pebble is not
    /// installed.
    #[track_caller]
    pub fn prepare(prover: SocketAddr, lifetime: Duration) -> Option<Self> {
        let program = require("pebble")?;
        let dir = TempDir::with_prefix("pierhead-pebble-").expect("a temporary directory");
        let (port, management) = (Port::reserve(), Port::reserve());
        let authority = Authority::new();
        let (certificate, key) = authority.server().write(dir.path(), "pebble");
        fs::write(dir.path().join("ca.pem"), authority.pem()).expect("a file");
        let config = serde_json::json!({ "pebble": {
            "listenAddress": port.addr(),
            "managementListenAddress": management.addr(),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": prover.port(),
            "tlsPort": prover.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "retryAfter": { "authz": 1, "order": 1 },
            "profiles": { "default": {
                "description": "the only one",
                "validityPeriod": lifetime.as_secs(),
            } },
        } });
        fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
        Some(Self { child: None, program, port, management, authority, dir })
    }

    /// Starts it.
    #[track_caller]
    pub fn start(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("-config").arg(self.dir.path().join("config.json"));
        // It would wait for seconds before it looks, and believe earlier proofs half of the time.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        // Some good nonces are to be refused, but hardly ever three in a row.
        command.env("PEBBLE_WFE_NONCEREJECT", "2");
        let mut child = Child::spawn("pebble", command, self.dir.path());
        child.wait_tcp(self.port.addr(), Duration::from_secs(20));
        child.wait_tcp(self.management.addr(), Duration::from_secs(20));
        self.child = Some(child);
    }

    /// Stops it. Its port refuses connections until it is started again.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill9();
        }
    }

    /// The directory's URL.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.port.addr())
    }

    /// A file with the authority of the directory's own certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The authority, in PEM form, of what this run issues.
    #[track_caller]
    pub fn root(&self) -> String {
        let url = format!("https://{}/roots/0", self.management.addr());
        let trusting = client(self.authority.pem(), None);
        Request::new("GET", url).tls(&trusting).send().expect(200).text()
    }

    /// How many orders it took in all runs. Requests would not do: it refuses some nonces on
    /// purpose, and those are sent again.
    pub fn orders(&self) -> usize {
        let log = fs::read_to_string(self.dir.path().join("pebble.stdout")).unwrap_or_default();
        log.matches("Added order ").count()
    }
}
