//! The functions that Pierhead offers to plugins, played: the same names, types and answers as in
//! [`bindings::imports`](crate::bindings::imports).

pub mod content;
pub mod crypto;

/// `log`.
pub mod log {
    use crate::log::Level;
    use crate::testing::with;

    /// Everything is wanted.
    #[must_use]
    pub const fn enabled(_: Level) -> bool {
        true
    }

    /// Keeps a line; fields stand behind it.
    pub fn write(level: Level, message: &str, fields: &[(String, String)]) {
        let mut line = message.to_owned();
        for (key, value) in fields {
            line.push_str(&format!(" {key}={value}"));
        }
        with(|state| state.logs.push((level, line)));
    }
}

/// `settings`.
pub mod settings {
    use crate::testing::with;

    /// What the plugin was configured with.
    #[must_use]
    pub fn json() -> String {
        with(|state| state.settings.clone())
    }

    /// A secret that was granted; none during `configure`.
    #[must_use]
    pub fn secret(name: &str) -> Option<String> {
        with(|state| state.secrets.get(name).filter(|_| !state.configuring).cloned())
    }
}

/// `facts`.
pub mod facts {
    use crate::facts::Fact;
    use crate::testing::{Known, with};

    /// What is known of a digest; nothing during `configure`.
    #[must_use]
    pub fn about(subject: &str, name: Option<&str>) -> Vec<Fact> {
        with(|state| {
            state
                .facts
                .iter()
                .filter(|_| !state.configuring)
                .filter(|known| known.subject.as_deref().is_none_or(|known| known == subject))
                .filter(|known| name.is_none_or(|name| name == known.fact.name))
                .map(|known| known.fact.clone())
                .collect()
        })
    }

    /// Keeps a fact.
    ///
    /// # Errors
    /// When it is no JSON, and during `configure`.
    pub fn state(subject: &str, name: &str, json: &str, _: Option<u64>) -> Result<(), String> {
        if with(|state| state.configuring) {
            return Err("nothing can be stated during configure".to_owned());
        }
        serde_json::from_str::<serde_json::Value>(json).map_err(|error| error.to_string())?;
        with(|state| {
            let fact = Fact {
                source: "self".to_owned(),
                name: name.to_owned(),
                json: json.to_owned(),
                at: state.now,
            };
            state.facts.push(Known { subject: Some(subject.to_owned()), fact });
        });
        Ok(())
    }
}

/// `kv`.
pub mod kv {
    use crate::kv::KvError;
    use crate::testing::{Kept, with};

    fn key(bucket: &str, key: &str) -> (String, String) {
        (bucket.to_owned(), key.to_owned())
    }

    fn open() -> Result<(), KvError> {
        if with(|state| state.configuring) {
            return Err(KvError::Other("there is no kv during configure".to_owned()));
        }
        Ok(())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// During `configure`: every bucket is granted.
    pub fn get(bucket: &str, name: &str) -> Result<Option<Vec<u8>>, KvError> {
        open()?;
        Ok(with(|state| {
            let kept = state.kept.get(&key(bucket, name))?;
            kept.ends.is_none_or(|ends| state.now < ends).then(|| kept.value.clone())
        }))
    }

    /// Sets a value.
    ///
    /// # Errors
    /// During `configure`: there is no quota.
    pub fn set(bucket: &str, name: &str, value: &[u8], ttl: Option<u64>) -> Result<(), KvError> {
        open()?;
        with(|state| {
            let ends = ttl.map(|ttl| state.now.saturating_add(ttl));
            state.kept.insert(key(bucket, name), Kept { value: value.to_owned(), ends });
        });
        Ok(())
    }

    /// Removes a key.
    ///
    /// # Errors
    /// During `configure`: every bucket is granted.
    pub fn delete(bucket: &str, name: &str) -> Result<(), KvError> {
        open()?;
        with(|state| state.kept.remove(&key(bucket, name)));
        Ok(())
    }

    /// Adds to a number.
    ///
    /// # Errors
    /// When the value is not a number or the sum is too large for one, and during `configure`.
    pub fn increment(bucket: &str, name: &str, by: i64, ttl: Option<u64>) -> Result<i64, KvError> {
        let (number, ends) = match get(bucket, name)? {
            None => (0, with(|state| ttl.map(|ttl| state.now.saturating_add(ttl)))),
            Some(value) => {
                let text = String::from_utf8(value).map_err(|_| KvError::NotANumber)?;
                let number = text.parse::<i64>().map_err(|_| KvError::NotANumber)?;
                (
                    number,
                    with(|state| state.kept.get(&key(bucket, name)).and_then(|kept| kept.ends)),
                )
            }
        };
        let sum = number.checked_add(by).ok_or(KvError::NotANumber)?;
        let value = sum.to_string().into_bytes();
        with(|state| state.kept.insert(key(bucket, name), Kept { value, ends }));
        Ok(sum)
    }
}

/// `http`.
pub mod http {
    use crate::http::{HttpError, Request, Response};
    use crate::testing::with;

    /// Answers what the test has an answer for.
    ///
    /// # Errors
    /// What the test says, that the request is not granted, or that it is sent during `configure`.
    pub fn send(request: &Request) -> Result<Response, HttpError> {
        if with(|state| state.configuring) {
            let why = "nothing can be sent during configure: send it in the first call";
            return Err(HttpError::Denied(why.to_owned()));
        }
        with(|state| {
            state.requests.push(request.clone());
            let answers = state.answers.iter().rev();
            answers
                .filter(|(method, url, _)| *method == request.method && *url == request.url)
                .map(|(_, _, answer)| answer.clone())
                .next()
                .unwrap_or_else(|| {
                    let message = format!("no answer to {} {}", request.method, request.url);
                    Err(HttpError::Denied(message))
                })
        })
    }
}
