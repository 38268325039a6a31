//! Tables that are one value of a key: `server.tls`, or `stale` of an upstream.

use std::ops::Range;

/// A value within a table, and its place.
pub(super) type Placed<T> = Option<(T, Range<usize>)>;

/// One list of keys makes the struct, the names and the reader of a table that is one value.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub(super) struct $name {
            $($field: $crate::config::table::Placed<$type>,)*
        }

        impl $name {
            /// Its keys.
            #[cfg(test)]
            pub(super) const KEYS: &'static [&'static str] = &[$(stringify!($field)),*];
        }

        impl $crate::config::values::Value for $name {
            fn read(
                value: &toml::de::DeValue<'_>,
            ) -> Result<Self, $crate::config::values::Refusal> {
                use toml::de::DeValue;

                use $crate::config::suggest::closest;
                use $crate::config::values::{Refusal, Value};

                let keys = [$(stringify!($field)),*];
                let DeValue::Table(table) = value else {
                    let example = format!("a table such as {{ {} = ... }}", keys[0]);
                    return Err(Refusal::wrong_type(&example, value));
                };
                let mut read = Self::default();
                for (key, value) in table {
                    let within = |refusal: Refusal| Refusal {
                        message: format!("`{}`: {}", key.get_ref(), refusal.message),
                        span: Some(refusal.span.unwrap_or_else(|| value.span())),
                        wrong_type: false,
                    };
                    match key.get_ref().as_ref() {
                        $(stringify!($field) => {
                            let item = <$type as Value>::read(value.get_ref()).map_err(within)?;
                            read.$field = Some((item, value.span()));
                        })*
                        other => {
                            let help = match closest(other, keys) {
                                Some(key) => format!("did you mean `{key}`?"),
                                None => format!("its keys are {}", keys.join(", ")),
                            };
                            let message = format!("it has no such key; {help}");
                            let span = Some(key.span());
                            return Err(Refusal { message, span, wrong_type: false });
                        }
                    }
                }
                Ok(read)
            }
        }
    };
}

pub(super) use table;
