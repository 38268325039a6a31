//! Hashes of other programs, and what is answered to whom.

use pierhead_plugin::testing;

use super::*;

/// Made by apache2-utils: `htpasswd -nbBC 4 alice 'correct horse'` and `-nbBC 5 bob hünter2`; the
/// third is the reference implementation's of argon2 ("password", "somesalt").
const USERS: &str = "
# bcrypt
alice:$2y$04$4lqcV7Snew8PkFfVZqRdUeZe2m0tGGBajSfLAdMiusy.aB7TQlEaO
bob:$2b$05$i2ZtVx51VlCoe8XZsO6Id.L/kmpGrGflyBwEGgi75Tl0HgQnSeCFu

carol:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4
";

fn configure(users: &str) -> Result<Htpasswd, Failure> {
    testing::configure(&format!(r#"{{"users": {users:?}}}"#))
}

fn login(plugin: &Htpasswd, name: &str, password: &str) -> AuthOutcome {
    let credentials = Credentials::Basic((name.to_owned(), password.to_owned()));
    plugin.authenticate(&testing::context(), &credentials).expect("it decides")
}

fn right(plugin: &Htpasswd, name: &str, password: &str) -> bool {
    match login(plugin, name, password) {
        AuthOutcome::Authenticated(identity) => {
            assert_eq!(identity.subject, name);
            true
        }
        AuthOutcome::Rejected(message) => {
            assert_eq!(message, WRONG);
            false
        }
        AuthOutcome::Abstain => panic!("it says something"),
    }
}

#[test]
fn the_examples_hold() {
    assert_eq!(testing::examples::<Htpasswd>(), Ok(4));
}

#[test]
fn the_hashes_of_other_programs_are_understood() {
    let plugin = configure(USERS).expect("the file is right");
    for (name, password) in [("alice", "correct horse"), ("bob", "hünter2"), ("carol", "password")]
    {
        assert!(right(&plugin, name, password), "{name}");
        for wrong in
            ["", "correct horse\0", "Correct horse", "correct horse ", "hunter2", "passwor"]
        {
            assert!(!right(&plugin, name, wrong), "{name} {wrong}");
        }
    }
    assert!(!right(&plugin, "dave", "password"));
    assert!(!right(&plugin, "", ""));
}

#[test]
fn the_same_salt_and_password_make_the_same_hash() {
    // Of jBCrypt's test vectors.
    for (hash, password) in [
        ("$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s.", ""),
        ("$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe", "a"),
        ("$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i", "abc"),
    ] {
        let hash = Hash::parse(hash).expect("it is a hash");
        assert!(hash.verify(password.as_bytes()), "{password}");
        assert!(!hash.verify(b"b"));
    }
}

#[test]
fn a_long_password_is_cut_where_bcrypt_cuts_it() {
    // `htpasswd -nbBC 4` of 80 letters a.
    let plugin = configure("alice:$2y$04$CSBte3WZFximlJ7eR8OXoe13gPChZSLNzBIw7nrWwBZgury2aj/Nm");
    let plugin = plugin.expect("the file is right");
    for length in [72, 73, 80, 100] {
        assert!(right(&plugin, "alice", &"a".repeat(length)), "{length}");
    }
    assert!(!right(&plugin, "alice", &"a".repeat(71)));
    let long = "a".repeat(CREDENTIAL_BYTES_MAX + 1);
    let plugin = configure(USERS).expect("the file is right");
    assert!(!right(&plugin, "alice", &long));
    assert!(!right(&plugin, &long, "a"));
}

#[test]
fn what_is_no_basic_login_is_left_to_others() {
    let plugin = configure(USERS).expect("the file is right");
    for credentials in [Credentials::Anonymous, Credentials::Bearer("x".to_owned())] {
        let outcome = plugin.authenticate(&testing::context(), &credentials).expect("it decides");
        assert!(matches!(outcome, AuthOutcome::Abstain));
    }
}

#[test]
fn wrong_names_are_measured_against_all_hashes() {
    let plugin = configure(USERS).expect("the file is right");
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..100 {
        let name = format!("nobody{number}");
        let first = plugin.stand_in(&name).map(std::ptr::from_ref);
        assert_eq!(first, plugin.stand_in(&name).map(std::ptr::from_ref), "the same every time");
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_file_without_sense_is_refused_and_no_hash_is_shown() {
    let argon2 = "alice:$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    for (users, message) in [
        ("", "nobody could log in"),
        ("# alice", "nobody could log in"),
        ("alice", "line 1: this is not NAME:HASH"),
        (":$2y$04$x", "line 1: the name is empty"),
        ("\nalice:secret", "line 2: the hash is neither"),
        ("alice:$apr1$846XGN/p$viLKHn0o75LULnwlTsZ9r/", "line 1: the hash is neither"),
        ("alice:$2y$04$short", "line 1: the hash is not a whole one of bcrypt"),
        ("alice:$2y$20$4lqcV7Snew8PkFfVZqRdUeZe2m0tGGBajSfLAdMiusy.aB7TQlEaO", "cost is 20"),
        ("alice:$2y$04$4lqcV7Snew8PkFfVZqRdU!Ze2m0tGGBajSfLAdMiusy.aB7TQlEaO", "not a whole one"),
        ("alice:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ", "not a whole one of argon2"),
        ("alice:$argon2id$nonsense", "argon2"),
        (argon2, "argon2 wants 65536 KiB of memory"),
    ] {
        let failure = configure(users).expect_err(users);
        assert!(failure.message.contains(message), "{users}: {}", failure.message);
        let hash = users.split_once(':').map_or("?", |(_, hash)| hash);
        assert!(!failure.message.contains(hash), "{}", failure.message);
    }
    let twice =
        format!("{USERS}alice:$2y$04$4lqcV7Snew8PkFfVZqRdUeZe2m0tGGBajSfLAdMiusy.aB7TQlEaO");
    let failure = configure(&twice).expect_err("alice is there twice");
    assert!(failure.message.contains("line 7: the name stands there twice"), "{}", failure.message);
    let unknown = testing::configure::<Htpasswd>(
        r#"{"users": "alice:$2y$04$4lqcV7Snew8PkFfVZqRdUeZe2m0tGGBajSfLAdMiusy.aB7TQlEaO",
            "groups": {"dev": ["bob"]}}"#,
    );
    let failure = unknown.expect_err("bob is nobody");
    assert_eq!(failure.message, "config.groups.dev: there is no user bob");
}

#[test]
fn hashes_do_not_print() {
    let plugin = configure(USERS).expect("the file is right");
    let shown = format!("{plugin:?}");
    assert!(shown.contains("Bcrypt(..)") && !shown.contains("$2"), "{shown}");
}
