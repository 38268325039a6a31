//! `stale`: how old tags may be.

use std::time::Duration;

use super::{good, refused, upstream, with_vars};
use crate::config::stale::StaleTable;
use crate::pull::settings::{Lifetime, StalePolicy};

const HOUR: Duration = Duration::from_secs(3600);

fn policy(text: &str, name: &str) -> StalePolicy {
    upstream(&good(text), name).1.stale.clone()
}

#[test]
fn what_was_cached_is_served_unless_access_was_lost() {
    let open = policy("", "docker.io");
    let lasting =
        |policy: &StalePolicy| [policy.on_error, policy.on_401, policy.on_429, policy.on_404];
    assert_eq!(lasting(&open), [Lifetime::Forever; 4]);
    assert_eq!(open.while_revalidate, Duration::ZERO);
    assert!(open.pinned.is_empty());
    let login = "[upstream.\"docker.io\"]\nusername = \"u\"\npassword_file = \"pw\"\n";
    let private = policy(login, "docker.io");
    assert_eq!(private.on_401, Lifetime::For(HOUR));
    assert_eq!(private.on_error, Lifetime::Forever);
    let longer = policy(&format!("{login}stale.on_401 = \"forever\""), "docker.io");
    assert_eq!(longer.on_401, Lifetime::Forever);
}

#[test]
fn every_form_of_a_table_is_read() {
    let name = "[upstream.\"docker.io\"]\n";
    for text in [
        format!("{name}stale = {{ on_error = \"1h\", on_404 = \"never\" }}"),
        format!("{name}stale.on_error = \"1h\"\nstale.on_404 = \"0s\""),
        "[upstream.\"docker.io\".stale]\non_error = \"60m\"\non_404 = \"never\"".to_owned(),
    ] {
        let policy = policy(&text, "docker.io");
        assert_eq!(policy.on_error, Lifetime::For(HOUR), "{text}");
        assert_eq!(policy.on_404, Lifetime::NEVER, "{text}");
        assert_eq!(policy.on_429, Lifetime::Forever, "{text}");
    }
    let variable = ("PIERHEAD_UPSTREAM__DOCKER_IO__STALE", "{ while_revalidate = \"1h\" }");
    let config = with_vars("", &[variable]).unwrap();
    assert_eq!(upstream(&config, "docker.io").1.stale.while_revalidate, HOUR);
}

#[test]
fn pinned_tags_are_those_that_clients_mean() {
    let text = "stale.pinned = [\"nginx:1.25\", \"team/*:v*\"]";
    let hub = policy(&format!("[upstream.\"docker.io\"]\n{text}"), "docker.io");
    let pins = |policy: &StalePolicy, repo: &str, tag: &str| {
        policy.pins(&repo.parse().unwrap(), &tag.parse().unwrap())
    };
    assert!(pins(&hub, "library/nginx", "1.25") && !pins(&hub, "nginx", "1.25"));
    assert!(pins(&hub, "team/a/b", "v2") && !pins(&hub, "team/a", "2"));
    let other = policy(&format!("[upstream.\"ghcr.io\"]\n{text}"), "ghcr.io");
    assert!(pins(&other, "nginx", "1.25") && !pins(&other, "library/nginx", "1.25"));
}

#[test]
fn mistakes_name_their_place() {
    for (value, says) in [
        ("{ on_eror = \"1h\" }", ["p.toml:2:11", "did you mean `on_error`?"]),
        ("{ on_error = \"always\" }", ["p.toml:2:22", "\"forever\" or \"never\""]),
        ("{ on_error = 60 }", ["p.toml:2:22", "found an integer"]),
        ("{ while_revalidate = \"forever\" }", ["p.toml:2:30", "a duration is"]),
        ("{ pinned = [\"a:1\", \"nginx\"] }", ["p.toml:2:28", "REPOSITORY:TAG"]),
        ("\"1h\"", ["p.toml:2:9", "found a string"]),
    ] {
        refused(&format!("[upstream.\"docker.io\"]\nstale = {value}"), &says);
    }
}

#[test]
fn the_reference_has_every_key() {
    let reference = include_str!("../../../docs/configuration.md");
    let (_, rows) = reference.split_once("| key of `stale` |").unwrap();
    let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
    let named: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert_eq!(named, StaleTable::KEYS);
    let staleness = include_str!("../../../docs/staleness.md");
    for key in StaleTable::KEYS {
        assert!(staleness.contains(&format!("`stale.{key}`")), "{key}");
    }
}
