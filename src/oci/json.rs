//! What the parsers of untrusted JSON have in common: known keys, capped lists, no duplicates.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Reads a key of an object: one of these, or any other.
///
/// Go's `encoding/json`, which most clients use, matches keys without regard to case. A key that
/// is a known one in another case would mean one thing to them and another to Pierhead and to
/// the policies that it asks, so it is refused.
#[derive(Clone, Copy)]
pub(super) struct KnownKey(pub(super) &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for KnownKey {
    /// The known key, or nothing for any other.
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KnownKey {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        match self.0.iter().find(|known| folds_to(key, known)) {
            Some(known) if *known == key => Ok(Some(known)),
            Some(known) => Err(E::custom(format_args!("a key differs from `{known}` in case"))),
            None => Ok(None),
        }
    }
}

/// Whether Go takes `key` for `known`, which is ASCII: it folds two more letters to ASCII, the
/// long s and the sign for kelvin.
fn folds_to(key: &str, known: &str) -> bool {
    let folded = key.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    folded.eq(known.chars().map(|c| c.to_ascii_lowercase()))
}

/// Reads the value of a key that may stand once. `null` is what Go writes for an empty list, map
/// or pointer, and becomes `None`.
pub(super) fn next_value<'de, A, T>(
    map: &mut A,
    key: &'static str,
    slot: &mut Option<Option<T>>,
) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Deserialize<'de>,
{
    if slot.is_some() {
        return Err(A::Error::duplicate_field(key));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

/// A list of at most `MAX` elements.
pub(super) struct Capped<T, const MAX: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Capped<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
            type Value = Capped<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if elements.len() == MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    elements.push(element);
                }
                Ok(Capped(elements))
            }
        }

        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

/// A map of text to text with at most `MAX` entries, each key once.
pub(super) struct TextMap<const MAX: usize>(pub(super) BTreeMap<String, String>);

impl<'de, const MAX: usize> Deserialize<'de> for TextMap<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<const MAX: usize>;

        impl<'de, const MAX: usize> Visitor<'de> for Entries<MAX> {
            type Value = TextMap<MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map of text to text with at most {MAX} entries")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if entries.len() == MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    if entries.insert(key, value).is_some() {
                        return Err(A::Error::custom("a key stands twice"));
                    }
                }
                Ok(TextMap(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fold_as_in_go() {
        for key in ["layers", "Layers", "LAYERS", "layer\u{17f}"] {
            assert!(folds_to(key, "layers"), "{key}");
        }
        assert!(folds_to("\u{212a}ind", "kind"));
        for key in ["layer", "layerss", "layer\u{df}", ""] {
            assert!(!folds_to(key, "layers"), "{key}");
        }
    }

    #[test]
    fn lists_and_maps_are_capped() {
        assert!(serde_json::from_str::<Capped<u8, 2>>("[1,2]").is_ok());
        assert!(serde_json::from_str::<Capped<u8, 2>>("[1,2,3]").is_err());
        assert!(serde_json::from_str::<TextMap<1>>(r#"{"a":"b"}"#).is_ok());
        assert!(serde_json::from_str::<TextMap<1>>(r#"{"a":"b","c":"d"}"#).is_err());
        assert!(serde_json::from_str::<TextMap<9>>(r#"{"a":"b","a":"b"}"#).is_err());
        assert!(serde_json::from_str::<TextMap<9>>(r#"{"a":1}"#).is_err());
    }
}
