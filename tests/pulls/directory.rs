//! ACME directories that do not do as they should. The real one is in `tests/e2e`.

use std::path::PathBuf;

use pierhead_kit::http::Request;
use pierhead_kit::program::Pierhead;
use pierhead_kit::tls::client;
use pierhead_kit::upstream::{Fault, FaultyUpstream, On, Protocol};
use pierhead_kit::wait_until;

use super::{DEADLINE, PIERHEAD};

/// How often we are asked to stay away for, in seconds: less than what is the longest wait of our
/// own would prove nothing.
const AWAY: u64 = 7200;

/// A directory that answers everything in that way, a Pierhead that asks it, and the folder with
/// the file of the directory's authority.
fn site(fault: Fault) -> (FaultyUpstream, Pierhead, tempfile::TempDir) {
    let directory = FaultyUpstream::start_with(Protocol { tls: true, http2: false });
    directory.fault(On::any(), fault);
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, directory.ca_pem().unwrap()).unwrap();
    let config = format!(
        "[server.acme]\ndomains = [\"localhost\"]\ndirectory = \"{}/dir\"\nca_file = \"{}\"\n",
        directory.url(),
        ca.display()
    );
    (directory, Pierhead::start(PIERHEAD, &config), dir)
}

fn tries(pierhead: &Pierhead) -> serde_json::Value {
    let folders = std::fs::read_dir(pierhead.storage().join("acme")).unwrap();
    let folder: PathBuf = folders.map(|entry| entry.unwrap().path()).next().unwrap();
    serde_json::from_slice(&std::fs::read(folder.join("tries.json")).unwrap()).unwrap()
}

fn failures(pierhead: &Pierhead) -> usize {
    let log = pierhead.stderr();
    log.lines().filter(|line| line.contains("ERROR") && line.contains("acme")).count()
}

#[test]
fn a_directory_that_is_down_is_not_hammered_and_stops_nothing_else() {
    let (directory, mut pierhead, _dir) = site(Fault::Drop);
    wait_until("the first failure", DEADLINE, || (failures(&pierhead) > 0).then_some(()));
    let asked = directory.log().len();
    assert!(asked > 0);
    // Neither signals nor restarts make it ask again so soon.
    for n in 2..5 {
        pierhead.hangup();
        wait_until("the answer", DEADLINE, || (failures(&pierhead) >= n).then_some(()));
    }
    let before = failures(&pierhead);
    pierhead.restart();
    wait_until("the answer", DEADLINE, || (failures(&pierhead) > before).then_some(()));
    assert_eq!(directory.log().len(), asked);
    assert!(pierhead.metrics().contains("pierhead_tls"));
    // Without a certificate there is nothing to say but no.
    let url = format!("{}/v2/", pierhead.url().replace("127.0.0.1", "localhost"));
    let trusting = client(directory.ca_pem().unwrap(), None);
    Request::new("GET", url).tls(&trusting).try_send().unwrap_err();
    wait_until("the handshake is counted", DEADLINE, || {
        let labels = [("result", "no_certificate")];
        (pierhead.metric("pierhead_tls_handshakes_total", &labels) == 1.0).then_some(())
    });
}

#[test]
fn a_directory_that_asks_for_patience_gets_it() {
    let (_directory, pierhead, _dir) = site(Fault::Status {
        code: 503,
        headers: vec![("Retry-After".to_owned(), AWAY.to_string())],
        body: b"{}".to_vec(),
    });
    wait_until("the first failure", DEADLINE, || (failures(&pierhead) > 0).then_some(()));
    let tries = tries(&pierhead);
    let number = |name: &str| tries[name].as_u64().unwrap();
    let away = number("barred_unix_ms") - number("last_unix_ms");
    assert!(away >= AWAY * 1000, "{tries}");
    assert_eq!(number("failures"), 1);
}
