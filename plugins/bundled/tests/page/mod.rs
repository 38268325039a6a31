//! The pages in `docs/plugins` say what the plugins do: their configurations load, every setting
//! is named, and so are the words of the examples.

use std::path::Path;

use pierhead_plugin::testing::{self, Callable};
use serde_json::Value;

/// The page of a plugin, in the folder of pages.
fn page(folder: &str, name: &str) -> String {
    let path = Path::new(folder).join(name).with_extension("md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    let after = page.split(opening.as_str()).skip(1);
    after.map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

/// Every setting that a schema names, at any depth.
fn settings(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get("properties") {
                found.extend(properties.keys().cloned());
            }
            members.values().for_each(|member| settings(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| settings(item, found)),
        _ => {}
    }
}

/// Holds the page of a plugin, in the folder of pages, to the plugin.
pub(crate) fn check<P: Callable>(folder: &str, name: &str) {
    let page = page(folder, name);
    let metadata: Value = serde_json::from_slice(P::metadata()).expect("the metadata is JSON");
    assert_eq!(metadata["name"], name);
    assert!(metadata["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}");

    let mut mounts = 0;
    for block in blocks(&page, "toml") {
        let file: Value =
            toml::from_str(block).unwrap_or_else(|error| panic!("{name}: {error}\n{block}"));
        let plugins =
            file["plugin"].as_object().unwrap_or_else(|| panic!("{name}: no mount: {block}"));
        for mount in plugins.values() {
            let config = mount.get("config").map_or_else(|| "{}".to_owned(), Value::to_string);
            testing::configure::<P>(&config)
                .unwrap_or_else(|failure| panic!("{name}: {}\n{block}", failure.message));
            mounts += 1;
        }
    }
    assert!(mounts > 0, "{name}: the page shows how to mount it");

    let mut keys = Vec::new();
    settings(&metadata["settings_schema"], &mut keys);
    assert!(!keys.is_empty(), "{name}: the settings have a schema");
    for key in keys {
        assert!(page.contains(&format!("`{key}`")), "{name}: the page does not name `{key}`");
    }

    let examples = testing::examples::<P>().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(examples > 0, "{name}: there are examples");
    for example in metadata["examples"].as_array().expect("they are a list") {
        if let Some(words) = example["expect"]["message"].as_str() {
            assert!(page.contains(words), "{name}: the page does not say: {words}");
        }
    }
}
