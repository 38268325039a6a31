//! The mount's settings.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Failure, host};

/// The settings of a plugin that has none: anything in `config` is a mistake.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// A secret by its name; only those that the mount grants, and none during `configure`.
#[must_use]
pub fn secret(name: &str) -> Option<String> {
    host::settings::secret(name)
}

/// Reads settings. A mistake is told with the name of the setting.
///
/// # Errors
/// When the text is not JSON, or not the settings.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Failure> {
    // An empty text is what a host without settings may hand over.
    let json = if json.trim().is_empty() { "{}" } else { json };
    let mut reader = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let what = without_place(&error.into_inner().to_string());
        // `.` is the path of the whole.
        Failure::config(if path == "." { what } else { format!("config.{path}: {what}") })
    })
}

/// The message without the line and the column, which are those of a text that nobody has seen.
fn without_place(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(what, _)| what).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        rules: Vec<Rule>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        name: String,
    }

    #[test]
    fn a_mistake_is_told_with_the_name_of_the_setting() {
        let wrong = |json| parse::<Settings>(json).expect_err("it is wrong").message;
        assert_eq!(
            wrong(r#"{"rules": [{"name": "a"}, {"name": 7}]}"#),
            "config.rules[1].name: invalid type: integer `7`, expected a string"
        );
        assert_eq!(wrong(r#"{"rules": [{}]}"#), "config.rules[0]: missing field `name`");
        assert_eq!(wrong(r#"{"rule": []}"#), "config.rule: unknown field `rule`, expected `rules`");
    }

    #[test]
    fn nothing_is_no_settings() {
        let settings: Settings = parse("").expect("it is right");
        assert!(settings.rules.is_empty());
        parse::<NoSettings>("{}").expect("it is right");
        parse::<NoSettings>(r#"{"a": 1}"#).expect_err("it has none");
        let settings: Settings = parse(r#"{"rules": [{"name": "a"}]}"#).expect("it is right");
        assert_eq!(settings.rules[0].name, "a");
    }
}
