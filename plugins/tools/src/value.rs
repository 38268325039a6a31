//! Text of a case in the words of the interface, and back.

use pierhead_plugin_host::wit;
use serde_json::Value;

/// A name with the upstream in front: `docker.io/library/debian:12`, with a tag, a digest or both.
///
/// # Errors
/// A text that says what is missing.
pub(crate) fn reference(text: &str) -> Result<wit::Reference, String> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest.to_owned())),
        None => (text, None),
    };
    let Some((upstream, rest)) = name.split_once('/') else {
        return Err(format!(
            "reference {text:?}: the upstream's name is missing; write docker.io/library/debian:12"
        ));
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag.to_owned())),
        None => (rest, None),
    };
    if upstream.is_empty() || repository.is_empty() {
        return Err(format!("reference {text:?} has an empty part"));
    }
    Ok(wit::Reference {
        upstream: upstream.to_owned(),
        repository: repository.to_owned(),
        tag,
        digest,
    })
}

/// [`reference`], backwards.
pub(crate) fn reference_text(reference: &wit::Reference) -> String {
    let mut text = format!("{}/{}", reference.upstream, reference.repository);
    if let Some(tag) = &reference.tag {
        text.push_str(&format!(":{tag}"));
    }
    if let Some(digest) = &reference.digest {
        text.push_str(&format!("@{digest}"));
    }
    text
}

/// Content as bytes: text as it stands, anything else as JSON.
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => Vec::new(),
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

/// Words of the interface that are the same in WIT and in a case, in both directions.
macro_rules! words {
    ($name:ident, $back:ident, $kind:ty, $what:literal, { $($word:literal => $value:path),+ $(,)? }) => {
        /// The word's meaning, or a text that lists the words.
        pub(crate) fn $name(word: &str) -> Result<$kind, String> {
            match word {
                $($word => Ok($value),)+
                _ => Err(format!(
                    "there is no {} {word:?}; there are {}",
                    $what,
                    [$($word),+].join(", ")
                )),
            }
        }

        /// The word for it.
        pub(crate) const fn $back(value: $kind) -> &'static str {
            match value {
                $($value => $word,)+
            }
        }
    };
}

words!(action, action_word, wit::Action, "action", {
    "pull" => wit::Action::Pull,
    "push" => wit::Action::Push,
    "delete" => wit::Action::Delete,
    "list-tags" => wit::Action::ListTags,
    "catalog" => wit::Action::Catalog,
    "referrers" => wit::Action::Referrers,
    "mount" => wit::Action::Mount,
    "admin" => wit::Action::Admin,
});

words!(kind, kind_word, wit::ObjectKind, "kind", {
    "manifest" => wit::ObjectKind::Manifest,
    "blob" => wit::ObjectKind::Blob,
    "tag" => wit::ObjectKind::Tag,
    "repository" => wit::ObjectKind::Repository,
    "registry" => wit::ObjectKind::Registry,
});

words!(stage, stage_word, wit::Stage, "stage", {
    "admit" => wit::Stage::Admit,
    "serve" => wit::Stage::Serve,
});

/// The word for an error code.
pub(crate) const fn code_word(code: wit::ErrorCode) -> &'static str {
    match code {
        wit::ErrorCode::Denied => "denied",
        wit::ErrorCode::Unauthorized => "unauthorized",
        wit::ErrorCode::NameUnknown => "name-unknown",
        wit::ErrorCode::ManifestUnknown => "manifest-unknown",
        wit::ErrorCode::BlobUnknown => "blob-unknown",
        wit::ErrorCode::Toomanyrequests => "toomanyrequests",
        wit::ErrorCode::Unsupported => "unsupported",
    }
}

/// What verdicts can depend on, in the order in which it is told.
const INPUTS: [(wit::DependsOn, &str); 8] = [
    (wit::DependsOn::IDENTITY, "identity"),
    (wit::DependsOn::CLIENT_ADDRESS, "client-address"),
    (wit::DependsOn::REPOSITORY, "repository"),
    (wit::DependsOn::TAG, "tag"),
    (wit::DependsOn::DIGEST, "digest"),
    (wit::DependsOn::ACTION, "action"),
    (wit::DependsOn::TIME, "time"),
    (wit::DependsOn::FACTS, "facts"),
];

/// The words for what a verdict depended on.
pub(crate) fn inputs(key: wit::DependsOn) -> Vec<String> {
    INPUTS
        .iter()
        .filter(|(flag, _)| key.contains(*flag))
        .map(|(_, word)| (*word).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written() {
        for text in [
            "docker.io/library/debian:12",
            "ghcr.io/a/b",
            "r.example:5000/a@sha256:0123",
            "docker.io/library/debian:12@sha256:0123",
        ] {
            assert_eq!(reference_text(&reference(text).unwrap()), text);
        }
        let debian = reference("docker.io/library/debian:12").unwrap();
        assert_eq!(debian.repository, "library/debian");
        assert!(reference("debian:12").unwrap_err().contains("upstream"));
        assert!(reference("/a").is_err());
    }

    #[test]
    fn words_have_a_way_back() {
        assert_eq!(action_word(action("list-tags").unwrap()), "list-tags");
        assert!(action("write").unwrap_err().contains("push"));
        assert_eq!(inputs(wit::DependsOn::TAG | wit::DependsOn::IDENTITY), ["identity", "tag"]);
    }
}
