//! Real clients with certificates, ours and theirs.

use pierhead_kit::images::multi_arch;
use pierhead_kit::tls::Authority;

use super::{Bench, NAME, options};

#[test]
fn skopeo_pulls_with_a_certificate_and_not_without() {
    let Some(bench) = Bench::start() else { return };
    bench.push(&multi_arch(100_000), "1");
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.server().write(dir.path(), "server");
    // The names that containers/image expects in such a folder.
    let (with, without) = (dir.path().join("with"), dir.path().join("without"));
    for folder in [&with, &without] {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    }
    let client = authority.client("runner.example");
    std::fs::write(with.join("client.cert"), &client.certificate).unwrap();
    std::fs::write(with.join("client.key"), &client.key).unwrap();

    let path = dir.path().display();
    let more = format!(
        "[server.tls]\ncert = \"{path}/server.crt\"\nkey = \"{path}/server.key\"\n\
         client_ca = \"{path}/with/ca.crt\"\n"
    );
    let pierhead = options(&bench.registry.url(), &more).start();
    let image = format!("docker://{}/library/{NAME}:1", pierhead.host());
    let copy = |certs: &std::path::Path| {
        let target = format!("dir:{}/copy", dir.path().display());
        let certs = certs.to_str().unwrap();
        bench.skopeo.run(["copy", "--quiet", "--all", "--src-cert-dir", certs, &image, &target])
    };
    copy(&without).fails();
    copy(&with).ok();
    assert!(pierhead.stderr().contains("subject=\"runner.example\""), "{}", pierhead.stderr());
}
