//! A call in Cedar's words: principal, action, resource and context.
//!
//! Values are made one by one and never read as Cedar's JSON: a manifest is whatever its author
//! wrote, and in that JSON some member names have a meaning of their own.

use std::collections::HashSet;
use std::str::FromStr as _;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
};
use pierhead_plugin::Failure;
use serde_json::Value;

/// Members of a document that are the principal's, the action's or the resource's.
const NOT_CONTEXT: &[&str] = &["action", "facts", "identity", "name", "repository", "upstream"];

/// Names of entity types, parsed once.
#[derive(Debug)]
pub(crate) struct Types {
    user: EntityTypeName,
    anonymous: EntityTypeName,
    group: EntityTypeName,
    action: EntityTypeName,
    repository: EntityTypeName,
    namespace: EntityTypeName,
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::internal(error.to_string())
}

/// A value; none for `null` and for numbers that are not whole, which Cedar does not have.
fn expression(value: &Value) -> Option<RestrictedExpression> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => RestrictedExpression::new_bool(*value),
        Value::Number(value) => RestrictedExpression::new_long(value.as_i64()?),
        Value::String(value) => RestrictedExpression::new_string(value.clone()),
        Value::Array(values) => RestrictedExpression::new_set(values.iter().filter_map(expression)),
        Value::Object(members) => {
            let members =
                members.iter().filter_map(|(key, value)| Some((key.clone(), expression(value)?)));
            // Keys of an object are not there twice, which is all that could be wrong.
            RestrictedExpression::new_record(members).ok()?
        }
    })
}

/// Facts by name and source: `context.facts.signature.cosign`.
fn facts(list: &Value) -> Value {
    let mut found = serde_json::Map::new();
    for fact in list.as_array().into_iter().flatten() {
        let (Some(name), Some(source)) = (fact["name"].as_str(), fact["source"].as_str()) else {
            continue;
        };
        let named = found.entry(name).or_insert_with(|| Value::Object(serde_json::Map::new()));
        named[source] = fact["value"].clone();
    }
    Value::Object(found)
}

impl Types {
    pub(crate) fn new() -> Result<Self, String> {
        let named =
            |name: &str| EntityTypeName::from_str(name).map_err(|error| format!("{name}: {error}"));
        Ok(Self {
            user: named("User")?,
            anonymous: named("Anonymous")?,
            group: named("Group")?,
            action: named("Action")?,
            repository: named("Repository")?,
            namespace: named("Namespace")?,
        })
    }

    /// Who asks, with its groups: those of the identity, and those that the settings name.
    fn principal(&self, identity: &Value, known: &Entities) -> Result<Entity, Failure> {
        let Some(subject) = identity["subject"].as_str() else {
            let uid = uid(&self.anonymous, "anonymous");
            return Ok(Entity::new_no_attrs(uid, HashSet::new()));
        };
        let principal = uid(&self.user, subject);
        let groups = identity["groups"].as_array().into_iter().flatten();
        let groups = groups.filter_map(|group| Some(uid(&self.group, group.as_str()?)));
        let configured = known.ancestors(&principal).into_iter().flatten().cloned();
        let parents = groups.chain(configured).collect();
        let attributes = ["subject", "issuer", "method", "groups", "claims"];
        let attributes = attributes
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), expression(&identity[*name])?)));
        Entity::new(principal, attributes.collect(), parents).map_err(internal)
    }

    /// What it is about, within the namespaces that its name begins with.
    fn resource(&self, input: &Value) -> Result<Entity, Failure> {
        let name = input["name"].as_str().unwrap_or_default();
        let namespaces = name.match_indices('/').map(|(at, _)| uid(&self.namespace, &name[..at]));
        let attributes = ["name", "upstream", "repository"];
        let attributes = attributes
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), expression(&input[*name])?)));
        Entity::new(uid(&self.repository, name), attributes.collect(), namespaces.collect())
            .map_err(internal)
    }

    /// The document as a request, and the entities that it is about besides those that are known.
    pub(crate) fn request(
        &self,
        input: &Value,
        known: &Entities,
    ) -> Result<(Request, Entities), Failure> {
        let principal = self.principal(&input["identity"], known)?;
        let resource = self.resource(input)?;
        let action = uid(&self.action, input["action"].as_str().unwrap_or_default());
        let members = input.as_object().into_iter().flatten();
        let members = members.filter(|(key, _)| !NOT_CONTEXT.contains(&key.as_str()));
        let mut pairs: Vec<(String, RestrictedExpression)> =
            members.filter_map(|(key, value)| Some((key.clone(), expression(value)?))).collect();
        pairs.extend(expression(&facts(&input["facts"])).map(|facts| ("facts".to_owned(), facts)));
        let context = Context::from_pairs(pairs).map_err(internal)?;
        let request = Request::new(principal.uid(), action, resource.uid(), context, None);
        let entities = known.clone().upsert_entities([principal, resource], None);
        Ok((request.map_err(internal)?, entities.map_err(internal)?))
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}
