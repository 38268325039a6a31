//! Certificates from pebble, an ACME directory.

use std::time::Duration;

use pierhead_kit::http::Request;
use pierhead_kit::images::{media, multi_arch};
use pierhead_kit::port::Port;
use pierhead_kit::program::{Options, Pebble, Pierhead, Run, require};
use pierhead_kit::tls::client;
use pierhead_kit::wait_until;

use super::{Bench, NAME, options};

/// How long an order may take: pebble is told to be quick, and refuses some nonces on purpose.
const ORDER: Duration = Duration::from_secs(60);

/// A Pierhead at a known port, a directory that looks for proofs there, and an upstream.
struct Site {
    bench: Bench,
    pebble: Pebble,
    own: Port,
}

impl Site {
    #[track_caller]
    fn new(lifetime: Duration) -> Option<Self> {
        let own = Port::reserve();
        let mut pebble = Pebble::prepare(own.addr(), lifetime)?;
        pebble.start();
        Some(Self { bench: Bench::start()?, pebble, own })
    }

    fn options(&self, domains: &str) -> Options {
        options(
            &self.bench.registry.url(),
            &format!(
                "[server]\nlisten = \"{}\"\n[server.acme]\ndomains = {domains}\n\
                 contact = \"mailto:ops@example.com\"\ndirectory = \"{}\"\nca_file = \"{}\"\n",
                self.own.addr(),
                self.pebble.directory(),
                self.pebble.ca_file().display(),
            ),
        )
    }

    /// The certificate that a client which trusts `root` is shown, if it connects.
    fn shown(&self, root: &str) -> Option<Vec<u8>> {
        let url = format!("https://localhost:{}/livez", self.own.addr().port());
        Request::new("GET", url).tls(&client(root, None)).try_send().ok()?.certificate
    }

    #[track_caller]
    fn wait_for_certificate(&self, root: &str) -> Vec<u8> {
        wait_until("a certificate", ORDER, || self.shown(root))
    }
}

#[test]
fn a_certificate_is_got_and_kept() {
    let Some(mut site) = Site::new(Duration::from_secs(30 * 24 * 3600)) else { return };
    let layout = multi_arch(100_000);
    let digest = site.bench.push(&layout, "1");
    let mut pierhead: Pierhead = site.options("[\"localhost\"]").start();
    let root = site.pebble.root();
    let first = site.wait_for_certificate(&root);
    assert_eq!(site.pebble.orders(), 1);

    // Pulls, by our own client and by others.
    let base = format!("https://localhost:{}", site.own.addr().port());
    let answer = Request::new("GET", format!("{base}/v2/library/{NAME}/manifests/1"))
        .header("accept", media::ACCEPT_ALL)
        .tls(&client(&root, None))
        .send()
        .expect(200);
    assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.crt"), &root).unwrap();
    let image = format!("docker://localhost:{}/library/{NAME}:1", site.own.addr().port());
    let copy = format!("dir:{}", dir.path().join("copy").display());
    let certs = dir.path().to_str().unwrap();
    let args = ["copy", "--quiet", "--all", "--src-cert-dir", certs, &image, &copy];
    site.bench.skopeo.run(args).ok();
    if let Some(curl) = require("curl") {
        let out = Run::new(curl)
            .args(["--silent", "--show-error", "--http2", "--write-out", "%{http_version}"])
            .args(["--output", "/dev/null", "--cacert"])
            .arg(dir.path().join("ca.crt"))
            .arg(format!("{base}/v2/"))
            .output()
            .ok();
        assert_eq!(out.text(), "2");
    }

    // Looks at the proof were not counted as clients.
    let handshakes =
        |result| pierhead.metric("pierhead_tls_handshakes_total", &[("result", result)]);
    assert!(handshakes("acme_challenge") >= 1.0);
    assert_eq!(handshakes("failed"), 0.0);
    let folder = std::fs::read_dir(pierhead.storage().join("acme")).unwrap().next().unwrap();
    for entry in std::fs::read_dir(folder.unwrap().path()).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
    }
    // Neither the account's key nor the certificate's gets into the log.
    assert!(!pierhead.stderr().contains("PRIVATE KEY"));

    // What was got is used again, with the directory gone.
    site.pebble.stop();
    pierhead.restart();
    assert_eq!(site.shown(&root), Some(first));
    assert_eq!(site.pebble.orders(), 1);
}

#[test]
fn a_certificate_is_renewed_in_time_and_no_client_notices() {
    let Some(mut site) = Site::new(Duration::from_secs(15)) else { return };
    let pierhead = site.options("[\"localhost\"]").start();
    let root = site.pebble.root();
    let mut certificates = vec![site.wait_for_certificate(&root)];
    // Our client checks the time as well: an expired certificate would be no answer.
    wait_until("two renewals", 3 * ORDER, || {
        let shown = site.shown(&root).expect("a certificate that is good");
        if !certificates.contains(&shown) {
            certificates.push(shown);
        }
        (certificates.len() >= 3).then_some(())
    });
    assert_eq!(site.pebble.orders(), 3);
    let changes = pierhead.metric("pierhead_tls_certificate_changes_total", &[]);
    assert_eq!(changes, 3.0);
    // A directory that has lost everything is told about us anew.
    site.pebble.stop();
    site.pebble.start();
    let root = site.pebble.root();
    // Longer than the pause after a try that met it while it was down.
    wait_until("a certificate of the new one", 3 * ORDER, || site.shown(&root));
    assert!(pierhead.stderr().contains("does not know our account any more"));
}

#[test]
fn a_refusal_says_why_and_is_not_repeated_at_once() {
    let Some(site) = Site::new(Duration::from_secs(3600)) else { return };
    let pierhead = site.options("[\"blocked.invalid\", \"localhost\"]").start();
    // Nobody looks such a name up with success.
    let why = |pierhead: &Pierhead| {
        let log = pierhead.stderr();
        log.lines().find(|line| line.contains("ERROR") && line.contains("acme")).map(str::to_owned)
    };
    let line = wait_until("the failure", ORDER, || why(&pierhead));
    assert!(line.contains("blocked.invalid"), "{line}");
    for _ in 0..3 {
        let before = pierhead.stderr().len();
        pierhead.hangup();
        wait_until("the answer to SIGHUP", ORDER, || {
            pierhead.stderr().get(before..)?.contains("not tried again yet").then_some(())
        });
    }
    assert_eq!(site.pebble.orders(), 1);
    // Until then there is nothing to show.
    assert_eq!(site.shown(&site.pebble.root()), None);
    wait_until("the handshake is counted", ORDER, || {
        let labels = [("result", "no_certificate")];
        (pierhead.metric("pierhead_tls_handshakes_total", &labels) >= 1.0).then_some(())
    });
}
