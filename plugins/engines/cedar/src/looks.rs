//! What policies look at, found in their syntax trees, and so what a verdict depends on.

use cedar_policy::{Policy, PolicySet};
use pierhead_plugin::{DependsOn, document};
use serde_json::Value;

/// What all policies together look at. None if one looks at something that cannot be said, so that
/// no verdict can be used again.
pub(crate) fn at(policies: &PolicySet) -> Result<Option<DependsOn>, String> {
    let mut all = Some(DependsOn::empty());
    for policy in policies.policies() {
        all = all.zip(of(policy)?).map(|(all, one)| all | one);
    }
    Ok(all)
}

fn of(policy: &Policy) -> Result<Option<DependsOn>, String> {
    let tree = policy.to_json().map_err(|error| error.to_string())?;
    let mut key = Some(DependsOn::empty());
    let mut add = |one: Option<DependsOn>| key = key.zip(one).map(|(key, one)| key | one);
    for variable in ["principal", "action", "resource"] {
        if tree[variable]["op"] != "All" {
            add(of_variable(variable, &[]));
        }
    }
    walk(&tree["conditions"], &mut add);
    Ok(key)
}

fn of_variable(variable: &str, path: &[&str]) -> Option<DependsOn> {
    match variable {
        "principal" => Some(DependsOn::IDENTITY),
        "action" => Some(DependsOn::ACTION),
        "resource" => Some(DependsOn::REPOSITORY),
        "context" => document::depends_on(&path.join(".")),
        _ => None,
    }
}

/// The variable and the path of `context.client.address`, and of a `has` at its end.
fn access(tree: &Value) -> Option<(&str, Vec<&str>)> {
    if let Some(variable) = tree["Var"].as_str() {
        return Some((variable, Vec::new()));
    }
    let step = [".", "has"].iter().find_map(|step| tree.get(*step))?;
    let (variable, mut path) = access(&step["left"])?;
    match &step["attr"] {
        // `has a.b` at once.
        Value::Array(names) => path.extend(names.iter().filter_map(Value::as_str)),
        name => path.push(name.as_str()?),
    }
    Some((variable, path))
}

fn walk(tree: &Value, add: &mut impl FnMut(Option<DependsOn>)) {
    if let Some((variable, path)) = access(tree) {
        add(of_variable(variable, &path));
        return;
    }
    match tree {
        Value::Array(items) => items.iter().for_each(|item| walk(item, add)),
        Value::Object(members) => members.values().for_each(|member| walk(member, add)),
        _ => {}
    }
}
