//! `pierhead config check` and `pierhead config example`.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::json;

use super::load;
use super::output::{Console, Exit, Format};
use crate::config;

/// Prints the example.
pub(super) fn example(console: &mut Console<'_>) -> Exit {
    console.say(config::example::EXAMPLE)
}

/// Judges what `serve` would run with.
pub(super) fn check(
    file: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
    format: Format,
    console: &mut Console<'_>,
) -> Exit {
    let (name, config) = load(file, variables);
    let (exit, warnings, error) = match config {
        Ok(config) => (Exit::Yes, config.notices, None),
        Err(error) => (Exit::No, Vec::new(), Some(error.to_string())),
    };
    for warning in &warnings {
        console.complain(&format!("{name}: warning: {warning}\n"));
    }
    if let Some(error) = &error {
        console.complain(&format!("{error}\n"));
    }
    let said = match format {
        Format::Json => {
            let verdict = json!({
                "file": name, "ok": error.is_none(), "warnings": warnings, "errors": error,
            });
            console.say(&format!("{verdict}\n"))
        }
        Format::Text if error.is_none() => console.say(&format!("{name}: ok\n")),
        Format::Text => Exit::Yes,
    };
    if exit == Exit::Yes { said } else { exit }
}

#[cfg(test)]
mod tests {
    use super::super::CONFIG_VARIABLE;
    use super::*;

    fn checked(
        file: Option<PathBuf>,
        variables: Vec<(OsString, OsString)>,
        format: Format,
    ) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = check(file, variables, format, &mut Console::new(&mut out, &mut err));
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn check_says_ok_or_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        let name = file.display();
        std::fs::write(&file, "[fill]\nanswer_within = \"40s\"").unwrap();
        let (exit, out, err) = checked(Some(file.clone()), Vec::new(), Format::Text);
        assert_eq!((exit, out), (Exit::Yes, format!("{name}: ok\n")));
        assert!(err.contains("warning: fill.answer_within"), "{err}");
        std::fs::write(&file, "[server]\nlisen = 1").unwrap();
        let (exit, out, err) = checked(Some(file.clone()), Vec::new(), Format::Text);
        assert_eq!((exit, out.as_str()), (Exit::No, ""));
        assert!(err.starts_with(&format!("{name}:2:1: ")), "{err}");
        // The variable is the argument's stand-in.
        let variable = vec![(OsString::from(CONFIG_VARIABLE), file.into_os_string())];
        assert_eq!(checked(None, variable, Format::Text).0, Exit::No);
        let (exit, out, _) = checked(None, Vec::new(), Format::Text);
        assert_eq!((exit, out.as_str()), (Exit::Yes, "zero configuration: ok\n"));
    }

    #[test]
    fn check_answers_scripts() {
        let read = |variables| {
            let (exit, out, _) = checked(None, variables, Format::Json);
            (exit, serde_json::from_str::<serde_json::Value>(&out).unwrap())
        };
        let (exit, verdict) = read(Vec::new());
        assert_eq!((exit, &verdict["ok"]), (Exit::Yes, &json!(true)));
        let (exit, verdict) = read(vec![("PIERHEAD_SERVER__LISEN".into(), "x".into())]);
        assert_eq!((exit, &verdict["ok"]), (Exit::No, &json!(false)));
        assert!(verdict["errors"].as_str().unwrap().contains("lisen"), "{verdict}");
    }

    #[test]
    fn check_judges_what_serve_would_run_with() {
        let variable = vec![("PIERHEAD_SERVER__LISEN".into(), "x".into())];
        assert_eq!(checked(None, variable, Format::Text).0, Exit::No);
    }
}
