//! The configuration as operators meet it.

mod encryption;
mod plugins;
mod reference;
mod stale;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use toml::de::{DeTable, DeValue};

use super::*;
use crate::config::sections::{
    AuthSection, ChainSection, FillSection, HostedSection, LogSection, PluginSection,
    PluginsSection, Section, ServerSection, StorageSection, TelemetrySection, UpstreamSection,
};
use crate::store::blob::fs::DEFAULT_MAX_BYTES;
use crate::upstream::settings::Credentials;

/// Files that configurations under test name.
fn files(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let content: &[u8] = match path.to_str() {
        Some("pw" | "/etc/pierhead/example.password") => b"hunter2\n",
        Some("token" | "/etc/pierhead/example.token") => b"token\r\n",
        Some("empty") => b"\n",
        Some("lines") => b"a\nb\n",
        Some("binary") => b"\xff",
        Some("ca" | "/etc/pierhead/example-ca.pem") => b"x\n-----BEGIN CERTIFICATE-----\n",
        _ => return Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    assert!(content.len() <= bytes_max);
    Ok(content.to_vec())
}

fn vars(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn with_vars(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    from_text("p.toml", text, vars(variables), &files).map_err(|error| error.to_string())
}

fn good(text: &str) -> Config {
    with_vars(text, &[]).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// Asserts that `text` is refused with words that contain all of `says`.
#[track_caller]
fn refused(text: &str, says: &[&str]) {
    let error = with_vars(text, &[]).expect_err(text);
    for part in says {
        assert!(error.contains(part), "{text}\nwants: {part}\ngot: {error}");
    }
}

fn upstream<'c>(config: &'c Config, name: &str) -> &'c (UpstreamSettings, TagSettings) {
    config.upstreams.iter().find(|(u, _)| u.name.as_str() == name).expect(name)
}

#[test]
fn zero_configuration() {
    let config = good("");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:5000");
    assert_eq!(config.server.admin_listen.to_string(), "127.0.0.1:5001");
    assert_eq!(config.storage.path, Path::new("pierhead-data"));
    assert_eq!(config.storage.scrub.rate, 50 << 20);
    assert_eq!(config.storage.scrub.every, Duration::from_secs(30 * 86_400));
    assert_eq!(config.fill.answer_within, Duration::from_secs(25));
    assert_eq!(config.naming.hosted_prefixes, ["hosted/"]);
    assert_eq!(config.naming.default_upstream.as_ref().unwrap().as_str(), "docker.io");
    assert!(config.notices.is_empty() && config.public_url.is_none());
    let names: Vec<_> = config.naming.upstreams.iter().map(|u| u.name.to_string()).collect();
    let expected = [
        "docker.io",
        "gcr.io",
        "ghcr.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
        "quay.io",
        "registry.k8s.io",
    ];
    assert_eq!(names, expected);
    let hub = config.naming.upstreams.first().unwrap();
    assert_eq!(hub.ns_aliases, ["index.docker.io", "registry-1.docker.io"]);
    assert_eq!(hub.single_component_prefix.as_ref().unwrap().as_str(), "library");
    let (hub, tags) = upstream(&config, "docker.io");
    assert_eq!(hub.endpoints.first().unwrap().as_str(), "https://registry-1.docker.io/");
    assert_eq!(hub.auth_hosts, ["auth.docker.io"]);
    assert_eq!(tags.tag_ttl, Duration::from_secs(60));
}

#[test]
fn a_table_merges_over_the_built_in_entry() {
    let config = good("[upstream.\"docker.io\"]\ntag_ttl = \"5m\"\n");
    let (hub, tags) = upstream(&config, "docker.io");
    assert_eq!(tags.tag_ttl, Duration::from_secs(300));
    assert_eq!(hub.auth_hosts, ["auth.docker.io"]);
    let config = good("upstream.\"ghcr.io\".enabled = false");
    assert_eq!(config.upstreams.len(), 6);
}

#[test]
fn a_new_upstream_needs_only_its_name() {
    let config = good("[upstream.\"r.example.com:5000\"]\nalias = \"r\"\nhosts = [\"R.mirror\"]");
    let (settings, _) = upstream(&config, "r.example.com:5000");
    assert_eq!(settings.endpoints.first().unwrap().as_str(), "https://r.example.com:5000/");
    let named =
        config.naming.upstreams.iter().find(|u| u.name.as_str() == "r.example.com:5000").unwrap();
    assert_eq!(named.alias.as_ref().unwrap().as_str(), "r");
    assert_eq!(named.hosts, ["r.mirror"]);
    assert!(named.single_component_prefix.is_none());
}

#[test]
fn one_default_upstream() {
    let name = |config: Config| config.naming.default_upstream.map(|name| name.to_string());
    let other = "[upstream.\"quay.io\"]\ndefault = true\n";
    assert_eq!(name(good(other)).as_deref(), Some("quay.io"));
    assert_eq!(name(good("[upstream.\"docker.io\"]\ndefault = false")), None);
    assert_eq!(name(good("[upstream.\"docker.io\"]\nenabled = false")), None);
    refused(
        &format!("{other}[upstream.\"docker.io\"]\ndefault = true"),
        &["p.toml:2:11", "docker.io is the default already (line 4)"],
    );
    refused("[upstream.x]\ndefault = true\nenabled = false", &["p.toml:2:11", "not enabled"]);
}

#[test]
fn an_unknown_key_names_its_line_and_the_right_word() {
    let error = with_vars("# a comment\n[server]\nlisen = \"127.0.0.1:5000\"\n", &[]).unwrap_err();
    assert_eq!(
        error,
        "p.toml:3:1: there is no key `lisen` in [server]\n  \
         3 | lisen = \"127.0.0.1:5000\"\n    \
           | ^^^^^\n  \
         help: did you mean `listen`?"
    );
    refused("[server]\ntag_ttl = \"1s\"", &["it belongs under [upstream.\"NAME\"]"]);
    refused("[sever]\n", &["p.toml:1:2", "did you mean [server]?"]);
    refused("listen = 1", &["p.toml:1:1", "it belongs under [server]"]);
    refused("[wholly_unlike]", &["the sections are server, storage"]);
    refused("[log]\nwholly_unlike = 1", &["the keys here are level, format"]);
    refused("[upstream.ghcr.io]\ntag_ttl = \"1s\"", &["needs quotes", "[upstream.\"ghcr.io\"]"]);
    refused("[upstream.\"Ghcr.io\"]", &["p.toml:1:11", "lower case"]);
    refused("server = 1", &["p.toml:1:10", "`server` is a table", "[server]"]);
    refused("[upstream]\nendpoints = []", &["[upstream.\"docker.io\"]"]);
    refused("[[upstream]]\n", &["`upstream` is a table"]);
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_shown() {
    let text = "[upstream.\"docker.io\"]\npassword = \"hunter2\"\n";
    refused(text, &["p.toml:2:1", "`password_file`"]);
    for text in [text, "[upstream.x]\nproxy = \"http://u:hunter2@p\"", "password = hunter2"] {
        assert!(!with_vars(text, &[]).unwrap_err().contains("hunter2"), "{text}");
    }
}

#[test]
fn later_keys_are_refused_as_such() {
    for text in ["[hosted]\nanonymous_push = true", "[hosted]\ncreate_on_push = true"] {
        refused(text, &["p.toml:", "not supported by this version"]);
    }
}

#[test]
fn bad_values_name_their_line() {
    for (text, says) in [
        ("[server]\nlisten = 5000", ["p.toml:2:10", "found an integer"]),
        ("[server]\nlisten = \"localhost:5000\"", ["p.toml:2:10", "IP address"]),
        ("[server]\nhttp2_streams_max = 0", ["p.toml:2:21", "from 1 to"]),
        ("[server]\nheader_bytes_max = \"1KiB\"", ["p.toml:2:20", "from 8192 to"]),
        ("[storage]\nmax_size = \"50GB/s\"", ["p.toml:2:12", "powers of"]),
        ("[upstream.x]\ntag_ttl = 60", ["p.toml:2:11", "in quotes"]),
        ("[upstream.x]\nendpoints = [\n \"https://a\",\n \"b\"]", ["p.toml:4:2", "https://"]),
        ("[upstream.x]\nendpoints = []", ["p.toml:2:13", "empty"]),
        ("[log]\nlevel = \"loud\"", ["p.toml:2:9", "\"warn\""]),
        ("[server]\nlisten = ", ["p.toml:2:", "not TOML"]),
        (
            "[server]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:1\"",
            ["p.toml:3:1", "duplicate"],
        ),
    ] {
        refused(text, &says);
    }
}

#[test]
fn several_errors_are_told_at_once() {
    refused("[log]\nlevel = 1\nfromat = 1\n[x]\n", &["p.toml:2:", "p.toml:3:", "p.toml:4:"]);
}

#[test]
fn limits_are_read_and_what_is_odd_is_noticed() {
    let config = good(
        "[storage]\nmax_size = \"500MB\"\nmin_free = \"2GiB\"\n[upstream.\"ghcr.io\"]\n\
         max_size = \"1GB\"\nmax_age = \"30days\"",
    );
    assert_eq!((config.storage.max_size, config.storage.min_free), (Some(500_000_000), 2 << 30));
    let limits = UpstreamLimits {
        max_bytes: Some(1_000_000_000),
        max_age: Some(Duration::from_secs(30 * 24 * 3600)),
    };
    assert_eq!(config.limits, HashMap::from([("ghcr.io".parse().unwrap(), limits)]));
    assert!(config.notices.is_empty());
    assert_eq!(good("").storage.max_size, None);
    assert_eq!(good("[fill]\nanswer_within = \"31s\"").notices.len(), 1);
}

#[test]
fn credentials_come_from_files() {
    let config = good("[upstream.\"ghcr.io\"]\nusername = \"u\"\npassword_file = \"pw\"");
    match &upstream(&config, "ghcr.io").0.credentials {
        Some(Credentials::Password { username, password }) => {
            assert_eq!((username.as_str(), password.expose()), ("u", "hunter2"));
        }
        other => panic!("{other:?}"),
    }
    let config = good("[upstream.\"ghcr.io\"]\ntoken_file = \"token\"");
    match &upstream(&config, "ghcr.io").0.credentials {
        Some(Credentials::Token(token)) => assert_eq!(token.expose(), "token"),
        other => panic!("{other:?}"),
    }
    for (keys, says) in [
        ("username = \"u\"", "add `password_file`"),
        ("password_file = \"pw\"", "add `username`"),
        ("username = \"u\"\npassword_file = \"pw\"\ntoken_file = \"token\"", "one way to log in"),
        ("token_file = \"missing\"", "`token_file`: cannot read missing"),
        ("token_file = \"empty\"", "empty is empty"),
        ("token_file = \"lines\"", "more than one line"),
        ("token_file = \"binary\"", "not UTF-8"),
        ("ca_file = \"pw\"", "no certificate"),
        ("ca_file = \"missing\"", "`ca_file`: cannot read"),
    ] {
        refused(&format!("[upstream.x]\n{keys}"), &["p.toml:", says]);
    }
}

#[test]
fn credentials_are_not_for_everyone_unless_said() {
    let text = "[upstream.\"ghcr.io\"]\ntoken_file = \"token\"\n";
    for listen in ["0.0.0.0:5000", "[::]:5000", "10.1.2.3:5000"] {
        let open = format!("[server]\nlisten = \"{listen}\"\n");
        refused(&format!("{open}{text}"), &["p.toml:4:14", "private images", "public_read"]);
        good(&format!("{open}{text}public_read = true"));
    }
    good(&format!("[server]\nlisten = \"[::1]:5000\"\n{text}"));
    // Behind a proxy, loopback says little: a notice.
    let config = good(&format!("[server]\npublic_url = \"https://m.example\"\n{text}"));
    assert_eq!(config.notices.len(), 1);
    let config = good(&format!("{text}endpoints = [\"http://r.example\"]"));
    assert!(config.notices.first().unwrap().contains("unencrypted"));
}

#[test]
fn the_operators_side_stays_on_loopback() {
    refused("[server]\nadmin_listen = \"0.0.0.0:5001\"", &["p.toml:2:16", "needs TLS"]);
    refused("[server]\nadmin_listen = \"127.0.0.1:5000\"", &["ports of their own"]);
    refused("[server]\nlisten = \"0.0.0.0:5001\"", &["p.toml:2:10", "ports of their own"]);
    good("[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"");
}

#[test]
fn an_endpoint_is_not_ourselves() {
    for (listen, endpoint) in [
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("127.0.0.1:5000", "http://localhost:5000/"),
        ("127.0.0.1:5000", "http://0.0.0.0:5000"),
        ("0.0.0.0:5000", "http://127.0.0.2:5000"),
        ("[::]:5000", "http://[::1]:5000"),
        ("10.0.0.1:80", "http://10.0.0.1"),
        ("127.0.0.1:5000", "http://127.0.0.1:5001"),
        ("127.0.0.1:5000", "https://m.example/x"),
    ] {
        let server =
            format!("[server]\nlisten = \"{listen}\"\npublic_url = \"https://m.example\"\n");
        let text = format!("{server}[upstream.x]\nendpoints = [\"http://a\", \"{endpoint}\"]");
        refused(&text, &["p.toml:5:26", "is Pierhead itself"]);
    }
    good("[upstream.x]\nendpoints = [\"http://127.0.0.1:5050\", \"http://10.0.0.1:5000\"]");
}

#[test]
fn words_that_select_do_not_collide() {
    for (text, says) in [
        ("[upstream.hosted]", "the hosted prefix \"hosted/\""),
        ("[upstream.x]\nalias = \"hosted\"", "the hosted prefix \"hosted/\""),
        ("[hosted]\nprefixes = [\"ghcr.io/a/\"]", "upstream ghcr.io"),
        ("[upstream.x]\nalias = \"quay.io\"", "upstream quay.io"),
        ("[upstream.x]\nalias = \"a\"\n[upstream.y]\nalias = \"a\"", "upstream x (line 2)"),
        ("[upstream.x]\nhosts = [\"a\"]\n[upstream.y]\nhosts = [\"a\"]", "upstream x (line 2)"),
        ("[upstream.\"index.docker.io\"]", "upstream docker.io"),
        ("[upstream.x]\nalias = \"index.docker.io\"", "upstream docker.io"),
        ("[upstream.x]\nalias = \"library\"", "official images"),
        ("[server]\npublic_url = \"https://x\"\n[upstream.x]", "server.public_url"),
        (
            "[server]\npublic_url = \"https://m.example\"\n[upstream.x]\nhosts = [\"m.example\"]",
            "server.public_url",
        ),
    ] {
        refused(text, &["p.toml:", ":", says]);
    }
    // The same word twice for one upstream is no collision; a removed one claims nothing.
    good("[upstream.\"quay.io\"]\nalias = \"quay.io\"\nhosts = [\"q\", \"q\"]");
    good("[upstream.\"quay.io\"]\nenabled = false\n[upstream.x]\nalias = \"quay.io\"");
    good("[upstream.hosted]\n[hosted]\nprefixes = [\"mine/\"]");
}

#[test]
fn every_bare_name_is_hosted_only_without_a_default() {
    refused("[hosted]\nprefixes = [\"*\"]", &["p.toml:2:13", "docker.io answers bare names"]);
    let config = good("[hosted]\nprefixes = [\"*\"]\n[upstream.\"docker.io\"]\ndefault = false");
    assert_eq!(config.naming.hosted_prefixes, [""]);
}

#[test]
fn the_public_host_has_its_port() {
    for (url, host) in [
        ("https://m.example", "m.example"),
        ("https://m.example:443", "m.example"),
        ("http://M.example:8080/", "m.example:8080"),
    ] {
        let config = good(&format!("[server]\npublic_url = \"{url}\""));
        assert_eq!(config.naming.public_host.as_deref(), Some(host));
    }
}

#[test]
fn variables_win_over_the_file() {
    let config = with_vars(
        "[server]\nlisten = \"127.0.0.1:1\"\nconnections_max = 5\n",
        &[
            ("PIERHEAD_SERVER__LISTEN", "127.0.0.1:7000"),
            ("PIERHEAD_SERVER__CONNECTIONS_MAX", "9"),
            ("PIERHEAD_SERVER__PUBLIC_URL", ""),
            ("PIERHEAD_STORAGE__PATH", "/var/lib/pierhead"),
            ("PIERHEAD_STORAGE__MAX_SIZE", "1GiB"),
            ("PIERHEAD_FILL__SERVE_UNVERIFIED_RANGES", "false"),
            ("PIERHEAD_HOSTED__PREFIXES", "[\"a/\", \"b/\"]"),
            ("PIERHEAD_LOG__FORMAT", "\"json\""),
            ("PIERHEAD_UPSTREAM__DOCKER_IO__TAG_TTL", "7s"),
            ("PIERHEAD_UPSTREAM__DOCKER_IO__ENDPOINTS", "[\"http://127.0.0.1:5050\"]"),
            ("PIERHEAD_URL", "ignored"),
            ("PIERHEAD_CONFIG", "ignored"),
            ("OTHER__KEY", "ignored"),
        ],
    )
    .unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:7000");
    assert_eq!(config.server.connections_max, 9);
    assert_eq!(config.storage.path, Path::new("/var/lib/pierhead"));
    assert_eq!(config.storage.max_size, Some(1 << 30));
    assert!(!config.fill.serve_unverified_ranges);
    assert_eq!(config.naming.hosted_prefixes, ["a/", "b/"]);
    assert_eq!(config.log.format, LogFormat::Json);
    let (hub, tags) = upstream(&config, "docker.io");
    assert_eq!(tags.tag_ttl, Duration::from_secs(7));
    assert_eq!(hub.endpoints.first().unwrap().as_str(), "http://127.0.0.1:5050/");
}

#[test]
fn a_path_that_looks_like_toml_is_still_a_path() {
    let config = with_vars("", &[("PIERHEAD_STORAGE__PATH", "5")]).unwrap();
    assert_eq!(config.storage.path, Path::new("5"));
}

#[test]
fn bad_variables_are_named() {
    let file = "[upstream.\"a-b.io\"]\n[upstream.\"a.b.io\"]\n[upstream.\"a--b.io\"]\n";
    for (name, value, says) in [
        ("PIERHEAD_SERVER__LISEN", "x", "did you mean `listen`?"),
        ("PIERHEAD_SEVER__LISTEN", "x", "did you mean [server]?"),
        ("PIERHEAD_PLUGIN__X", "1", "names no plugin"),
        ("PIERHEAD_SERVER__LISTEN", "x", "IP address"),
        ("PIERHEAD_SERVER__CONNECTIONS_MAX", "many", "expected an integer"),
        ("PIERHEAD_SERVER__CONNECTIONS_MAX", "0", "from 1 to"),
        ("PIERHEAD_UPSTREAM__DOCKER_IO__TAG_TTL", "60", "units"),
        ("PIERHEAD_UPSTREAM__DOCKER_IO__ENDPOINTS", "https://x", "a list"),
        ("PIERHEAD_UPSTREAM__NO_SUCH__TAG_TTL", "1s", "docker.io, gcr.io"),
        ("PIERHEAD_UPSTREAM__A_B_IO__TAG_TTL", "1s", "a-b.io or a.b.io"),
        ("PIERHEAD_UPSTREAM__DOCKER_IO__TTL", "1s", "the keys here are"),
    ] {
        let error = with_vars(file, &[(name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
        assert!(error.contains(says), "{name}: {error}");
    }
    good(file);
    with_vars(file, &[("PIERHEAD_UPSTREAM__A__B_IO__TAG_TTL", "1s")]).unwrap();
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let variable = ("PIERHEAD_LOG__LEVEL".into(), OsString::from_vec(vec![0xff]));
    let error = from_text("f", "", [variable], &files).unwrap_err();
    assert_eq!(error.problems().first().unwrap().place(), "PIERHEAD_LOG__LEVEL");
}

#[test]
fn files_are_read_and_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pierhead.toml");
    let load = || load(Some(&path), []).map_err(|error| error.to_string());
    assert!(load().unwrap_err().contains("pierhead.toml: cannot read it"));
    std::fs::write(&path, "[server]\nlisten = \"127.0.0.1:9\"").unwrap();
    assert_eq!(load().unwrap().server.listen.port(), 9);
    std::fs::write(&path, b"a\n\xff").unwrap();
    assert!(load().unwrap_err().contains("line 2 is not UTF-8"));
    std::fs::write(&path, vec![b'#'; CONFIG_BYTES_MAX + 1]).unwrap();
    assert!(load().unwrap_err().contains("larger than"));
    assert!(super::load(None, []).is_ok());
}

#[test]
fn the_example_is_the_defaults() {
    let defaults = good("");
    let shown = |config: &Config| {
        let invented = ["registry.example.com:5000", "tokens.example.com"];
        let mut config = config.clone();
        config.notices.clear();
        config.in_force.clear();
        config.plugins.mounts.clear();
        config.plugins.order.clear();
        config.limits.retain(|name, _| !invented.contains(&name.as_str()));
        // Where it is not set, the disk has a say.
        config.storage.max_size = config.storage.max_size.filter(|max| *max != DEFAULT_MAX_BYTES);
        config.upstreams.retain(|(u, _)| !invented.contains(&u.name.as_str()));
        config.naming.upstreams.retain(|u| !invented.contains(&u.name.as_str()));
        format!("{config:#?}")
    };
    let commented = good(example::EXAMPLE);
    assert_eq!(format!("{commented:#?}"), format!("{defaults:#?}"));
    let uncommented = good(&example::uncommented());
    assert_eq!(uncommented.upstreams.len(), defaults.upstreams.len() + 2);
    assert_eq!(shown(&uncommented), shown(&defaults));
}

#[test]
fn what_is_in_force_says_where_it_came_from() {
    let text = "[server]\n\nlisten = \"0.0.0.0:5000\"\n[upstream.\"a.example\"]\nalias = \"a\"\n";
    let variables = [("PIERHEAD_FILL__CONCURRENT_MAX", "7"), ("PIERHEAD_LOG__LEVEL", "debug")];
    let config = with_vars(text, &variables).unwrap();
    let shown = |key: &str| {
        let setting = config.in_force.iter().find(|setting| setting.key == key);
        let setting = setting.unwrap_or_else(|| panic!("no {key}"));
        (setting.value.to_string(), setting.set_by.clone().unwrap_or_default())
    };
    for (key, value, set_by) in [
        ("server.listen", "\"0.0.0.0:5000\"", "line 3"),
        ("server.admin_listen", "\"127.0.0.1:5001\"", ""),
        ("fill.concurrent_max", "7", "PIERHEAD_FILL__CONCURRENT_MAX"),
        ("log.level", "\"debug\"", "PIERHEAD_LOG__LEVEL"),
        ("hosted.prefixes", "[\"hosted/\"]", ""),
        ("upstream.\"a.example\".alias", "\"a\"", "line 5"),
        ("upstream.\"a.example\".endpoints", "[\"https://a.example\"]", ""),
        ("upstream.\"a.example\".tag_ttl", "\"60s\"", ""),
        ("upstream.\"a.example\".default", "false", ""),
        ("upstream.\"a.example\".password_file", "null", ""),
        ("upstream.\"docker.io\".default", "true", ""),
        ("upstream.\"docker.io\".endpoints", "[\"https://registry-1.docker.io\"]", ""),
    ] {
        assert_eq!(shown(key), (value.to_owned(), set_by.to_owned()), "{key}");
    }
}

#[test]
fn every_section_is_shown_in_force() {
    let text = example::uncommented();
    let table = DeTable::parse(&text).unwrap();
    let config = good("");
    // Of plugins there is nothing to show where there are none.
    let always = |name: &str| !matches!(name, "plugin" | "chain");
    for section in table.get_ref().keys().filter(|section| always(section.get_ref())) {
        let prefix = format!("{}.", section.get_ref());
        let shown = config.in_force.iter().any(|setting| setting.key.starts_with(&prefix));
        assert!(shown, "[{}] is missing in resolve.rs, `sections`", section.get_ref());
    }
}

#[test]
fn the_example_has_every_key() {
    let text = example::uncommented();
    let table = DeTable::parse(&text).unwrap();
    let keys = |value: &DeValue<'_>| -> BTreeSet<String> {
        value.as_table().unwrap().keys().map(|key| key.get_ref().to_string()).collect()
    };
    let known = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
    for (section, value) in table.get_ref() {
        let expected: BTreeSet<String> = match section.get_ref().as_ref() {
            "server" => known(ServerSection::KEYS),
            "storage" => known(StorageSection::KEYS),
            "hosted" => known(HostedSection::KEYS),
            "chain" => known(ChainSection::KEYS),
            "plugins" => known(PluginsSection::KEYS),
            "plugin" => {
                let plugin = value.get_ref().as_table().unwrap().values().next().unwrap();
                assert_eq!(keys(plugin.get_ref()), known(PluginSection::KEYS));
                continue;
            }
            "fill" => known(FillSection::KEYS),
            "log" => known(LogSection::KEYS),
            "auth" => known(AuthSection::KEYS),
            "telemetry" => known(TelemetrySection::KEYS),
            _ => {
                let upstreams = value.get_ref().as_table().unwrap();
                let found: BTreeSet<_> =
                    upstreams.values().flat_map(|upstream| keys(upstream.get_ref())).collect();
                assert_eq!(found, known(UpstreamSection::KEYS));
                continue;
            }
        };
        assert_eq!(keys(value.get_ref()), expected, "{section:?}");
    }
    assert_eq!(table.get_ref().len(), 11);
}

/// Text that often gets past the parser.
fn plausible() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "\\[(server|storage|upstream|upstream\\.\"[a-z.:0-9]{1,8}\"|hosted|fill|auth|log|telemetry|plugin|plugin\\.[a-z]{1,3}|chain|plugins|x)\\]",
        "[a-z_.]{1,12} = [0-9\"\\[\\]{}a-zé.:/*-]{0,20}",
        "(listen|endpoints|tag_ttl|alias|hosts|prefixes|default|token_file|public_url|path) = \
         (\"[ -~é]{0,12}\"|\\[\"[a-z:/.*]{0,12}\"\\]|true|-?[0-9]{1,22}|[0-9.e]{1,6})",
        "\\PC{0,20}",
    ];
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        config_from_text(&text);
    }

    #[test]
    fn no_plausible_text_panics(text in plausible()) {
        config_from_text(&text);
    }

    #[test]
    fn no_variable_panics(
        name in "PIERHEAD_(SERVER|UPSTREAM|LOG|X)?__(DOCKER_IO)?_{0,3}[A-Z_é]{0,12}",
        value in "(?s).{0,40}",
    ) {
        let _ = with_vars("", &[(&name, &value)]);
    }
}
