//! `server.tls`, `server.acme` and `server.trusted_proxies` as operators meet them.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair};
use toml::de::DeTable;

use crate::config::encryption::{AcmeTable, TlsTable};
use crate::config::{Config, from_text, read_from_disk};
use crate::http::settings::CertificateSource;

/// A folder with `cert.pem` and `key.pem`, `other.pem` (another key), `old.pem` (an expired
/// certificate of `key.pem`) and `text` (none of these).
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
        write("cert.pem", params.self_signed(&key).unwrap().pem());
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        write("old.pem", params.self_signed(&key).unwrap().pem());
        write("key.pem", key.serialize_pem());
        write("other.pem", KeyPair::generate().unwrap().serialize_pem());
        write("text", "nothing".to_owned());
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Reads a configuration whose `%NAME` are the files of this folder.
    fn read(&self, text: &str) -> Result<Config, String> {
        let text = text.replace('%', &format!("{}/", self.0.path().display()));
        from_text("p.toml", &text, [], &read_from_disk).map_err(|error| error.to_string())
    }
}

#[test]
fn files_are_taken_if_they_fit() {
    let files = Files::new();
    let tls = |text: &str| files.read(text).unwrap_or_else(|e| panic!("{e}")).server.tls;
    assert!(tls("[server]\ntls = { cert = \"\", key = \"\" }").is_none());
    assert!(tls("[server]\ntls = {}\nacme = { domains = [] }").is_none());
    let found = tls("[server]\ntls = { cert = \"%cert.pem\", key = \"%key.pem\" }").unwrap();
    assert!(found.clients.is_none());
    let CertificateSource::Files(pair) = found.source else { panic!("not files") };
    assert_eq!((pair.certificate, pair.key), (files.path("cert.pem"), files.path("key.pem")));
    let base =
        "[server.tls]\ncert = \"%cert.pem\"\nkey = \"%key.pem\"\nclient_ca = \"%cert.pem\"\n";
    for (more, required) in
        [("", true), ("client_auth = \"required\"", true), ("client_auth = \"optional\"", false)]
    {
        let clients = tls(&format!("{base}{more}")).unwrap().clients.unwrap();
        assert_eq!(clients.required, required, "{more}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let files = Files::new();
    for (server, says) in [
        ("tls = { cert = \"%cert.pem\" }", &["p.toml:2:16", "`cert` without `key`"][..]),
        ("tls = { key = \"%key.pem\" }", &["p.toml:2:15", "`key` without `cert`"]),
        ("tls = { cert = \"%no\", key = \"%key.pem\" }", &["p.toml:2:16", "cannot read"]),
        ("tls = { cert = \"%text\", key = \"%key.pem\" }", &["p.toml:2:16", "no certificate"]),
        ("tls = { cert = \"%old.pem\", key = \"%key.pem\" }", &["p.toml:2:16", "expired", "2001"]),
        ("tls = { cert = \"%cert.pem\", key = \"%text\" }", &["no private key"]),
        (
            "tls = { cert = \"%cert.pem\", key = \"%other.pem\" }",
            &["`tls.key`", "not that of the certificate"],
        ),
        ("tls = { client_ca = \"%cert.pem\" }", &["p.toml:2:21", "without TLS"]),
        ("tls = { client_auth = \"required\" }", &["p.toml:2:23", "without `client_ca`"]),
        (
            "tls = { cert = \"%cert.pem\", key = \"%key.pem\", client_ca = \"%text\" }",
            &["`tls.client_ca`", "no certificate"],
        ),
        ("tls = { client_auth = \"maybe\" }", &["p.toml:2:23", "\"optional\" or \"required\""]),
        ("tls = { crt = \"x\" }", &["p.toml:2:9", "did you mean `cert`?"]),
        ("tls = true", &["expected a table"]),
        ("acme = { contact = \"mailto:a@b\" }", &["p.toml:2:20", "without `domains`"]),
        ("acme = { domains = [\"*.a.example\"] }", &["p.toml:2:21", "wildcard"]),
        ("acme = { domains = [\"10.0.0.1\"] }", &["a DNS name"]),
        ("acme = { domains = [\"a\"], contact = \"ops\" }", &["mailto:"]),
        ("acme = { domains = [\"a\"], directory = \"http://ca.example\" }", &["https://"]),
        ("acme = { domains = [\"a\"], ca_file = \"%text\" }", &["`acme.ca_file`"]),
        (
            "tls = { cert = \"%cert.pem\", key = \"%key.pem\" }\nacme = { domains = [\"a\"] }",
            &["p.toml:2:16", "(line 3)", "keep one"],
        ),
        ("trusted_proxies = [\"10.0.0.0/8\", \"lb.example\"]", &["p.toml:2:34", "a network"]),
    ] {
        let error = files.read(&format!("[server]\n{server}\n")).expect_err(server);
        for part in says {
            let part = part.replace('%', &format!("{}/", files.0.path().display()));
            assert!(error.contains(&part), "{server}\nwants: {part}\ngot: {error}");
        }
    }
}

#[test]
fn acme_has_lets_encrypt_as_its_default() {
    let files = Files::new();
    let config = files
        .read("[server]\nacme = { domains = [\"Mirror.example\"] }\n[storage]\npath = \"/data\"")
        .unwrap();
    let CertificateSource::Acme(acme) = config.server.tls.unwrap().source else {
        panic!("not ACME")
    };
    assert_eq!(acme.domains, ["mirror.example"]);
    assert_eq!(acme.directory.as_str(), "https://acme-v02.api.letsencrypt.org/directory");
    assert_eq!(acme.folder, Path::new("/data/acme"));
    let more = "client_ca = \"%cert.pem\"";
    let text = format!("[server]\nacme = {{ domains = [\"a\"] }}\ntls = {{ {more} }}");
    assert!(files.read(&text).unwrap().server.clients_need_certificates());
}

#[test]
fn encryption_opens_what_is_refused_without_it() {
    let files = Files::new();
    let tls = "tls = { cert = \"%cert.pem\", key = \"%key.pem\" }";
    let config = files.read(&format!("[server]\nadmin_listen = \"0.0.0.0:5001\"\n{tls}")).unwrap();
    assert!(config.server.admin_has_tls());
    assert!(!files.read(&format!("[server]\n{tls}")).unwrap().server.admin_has_tls());
    // Whoever has a certificate may see what the credentials see.
    let upstream = "[upstream.x]\nusername = \"u\"\npassword_file = \"%text\"\n[server]\n\
                    listen = \"0.0.0.0:5000\"\n";
    assert!(files.read(&format!("{upstream}{tls}")).unwrap_err().contains("client_ca"));
    let clients = tls.replace(" }", ", client_ca = \"%cert.pem\" }");
    files.read(&format!("{upstream}{clients}")).unwrap();
    let optional = clients.replace(" }", ", client_auth = \"optional\" }");
    assert!(files.read(&format!("{upstream}{optional}")).is_err());
}

#[test]
fn trusting_everybody_is_told() {
    let files = Files::new();
    let notices = |list: &str| {
        files.read(&format!("[server]\ntrusted_proxies = [{list}]")).unwrap().notices.len()
    };
    assert_eq!(notices("\"10.0.0.0/8\", \"127.0.0.1\""), 0);
    assert_eq!(notices("\"0.0.0.0/0\", \"::/0\""), 2);
}

#[test]
fn a_variable_holds_a_whole_table() {
    let value = "{ cert = \"c\", key = \"k\" }";
    let variable = ("PIERHEAD_SERVER__TLS".into(), value.into());
    let error = from_text("p.toml", "", [variable], &read_from_disk).unwrap_err().to_string();
    assert!(error.starts_with("PIERHEAD_SERVER__TLS: `tls.cert`: cannot read c"), "{error}");
}

#[test]
fn the_reference_has_every_key_of_the_tables() {
    let reference = include_str!("../../../docs/configuration.md");
    for (table, keys) in [("tls", TlsTable::KEYS), ("acme", AcmeTable::KEYS)] {
        let header = format!("| key of `{table}` |");
        let (_, rows) = reference.split_once(&header).unwrap();
        let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
        let named: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        assert_eq!(named, keys);
    }
}

#[test]
fn the_default_directory_is_a_url() {
    url::Url::parse(crate::config::defaults::ACME_DIRECTORY).unwrap();
    DeTable::parse(crate::config::example::EXAMPLE).unwrap();
}
