//! `[telemetry]`: where traces go.

use http::{HeaderName, HeaderValue};
use toml::de::DeValue;
use url::Url;

use super::error::Problems;
use super::secrets::{ReadFile, SECRET_BYTES_MAX, read_named};
use super::sections::TelemetrySection;
use super::source::At;
use super::values::{BaseUrl, FilePath, Refusal, Text, Value, read_text};
use crate::secret::Secret;
use crate::telemetry::settings::TraceSettings;

/// The longest name of the service, in bytes.
const SERVICE_NAME_BYTES_MAX: usize = 255;

/// The collector's URL; empty means none.
#[derive(Clone, Debug)]
pub(super) struct Collector(pub(super) Option<Url>);

impl Text for Collector {
    const EXPECTED: &'static str = "a URL such as \"http://collector.example.com:4318\"";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let BaseUrl(url) = BaseUrl::parse(text)?;
        if url.path().trim_end_matches('/').ends_with("/v1/traces") {
            return Err("leave out the /v1/traces: it is added".to_owned());
        }
        Ok(Self(Some(url)))
    }
}

/// A file of headers; empty means none.
#[derive(Clone, Debug)]
pub(super) struct HeadersFile(pub(super) Option<FilePath>);

impl Text for HeadersFile {
    const EXPECTED: &'static str = FilePath::EXPECTED;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(Self(None)) } else { FilePath::parse(text).map(Some).map(Self) }
    }
}

/// A share, from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratio(pub(super) f64);

impl Value for Ratio {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let number = match (value.as_float(), value.as_integer()) {
            (Some(float), _) => float.as_str().parse::<f64>().ok(),
            (None, Some(integer)) => integer.as_str().parse::<f64>().ok(),
            (None, None) => return Err(Refusal::wrong_type("a number from 0 to 1", value)),
        };
        number
            .filter(|number| (0.0..=1.0).contains(number))
            .map(Self)
            .ok_or_else(|| Refusal::new("must be from 0 to 1"))
    }
}

/// What Pierhead is called in traces.
#[derive(Clone, Debug)]
pub(super) struct ServiceName(pub(super) String);

impl Text for ServiceName {
    const EXPECTED: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, String> {
        let fits = (1..=SERVICE_NAME_BYTES_MAX).contains(&text.len());
        if !fits || text.chars().any(char::is_control) {
            return Err(format!("a name has 1 to {SERVICE_NAME_BYTES_MAX} bytes on one line"));
        }
        Ok(Self(text.to_owned()))
    }
}

macro_rules! texts {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
                read_text(value)
            }
        }
    )*};
}

texts!(Collector, HeadersFile, ServiceName);

/// Where traces go; nowhere without a collector.
pub(super) fn traces(
    keys: TelemetrySection,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<TraceSettings> {
    // Read even if nothing is exported: a slip in it should not wait for the day it matters.
    let headers = match keys.otlp_headers_file {
        Some(At { value: HeadersFile(Some(value)), origin }) => {
            headers(&At { value, origin }, read, problems)?
        }
        _ => Vec::new(),
    };
    Some(TraceSettings {
        endpoint: keys.otlp_endpoint?.value.0?,
        sample_ratio: keys.sample_ratio.map_or(super::defaults::SAMPLE_RATIO, |at| at.value.0),
        service_name: keys
            .service_name
            .map_or_else(|| super::defaults::SERVICE_NAME.to_owned(), |at| at.value.0),
        headers,
    })
}

/// The headers in a file: `Name: value` on each line; empty lines and those with a # do not count.
fn headers(
    file: &At<FilePath>,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<Vec<(HeaderName, Secret)>> {
    const KEY: &str = "otlp_headers_file";
    let content = read_named(KEY, file, SECRET_BYTES_MAX, read, problems)?;
    let mut refuse = |why: String| {
        let path = file.value.0.display();
        problems.add(&file.origin, format!("`{KEY}`: {path} {why}"), None);
        None
    };
    let Ok(text) = String::from_utf8(content) else {
        return refuse("is not UTF-8 text".to_owned());
    };
    let mut headers = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let value = value.trim();
            HeaderValue::from_str(value).ok()?;
            Some((name.trim().parse().ok()?, Secret::new(value)))
        });
        // The line itself is a secret.
        let Some(header) = header else {
            return refuse(format!("has no header `Name: value` on line {}", index + 1));
        };
        headers.push(header);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, from_text};

    fn config(text: &str, file: &'static str) -> Result<Config, String> {
        let files = move |_: &Path, _: usize| Ok(file.as_bytes().to_vec());
        from_text("p.toml", text, [], &files).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_exported_unless_asked_for() {
        for text in ["", "[telemetry]\notlp_endpoint = \"\"\nsample_ratio = 0.5"] {
            assert!(config(text, "").unwrap().traces.is_none(), "{text}");
        }
    }

    #[test]
    fn a_collector_with_headers() {
        let text = "[telemetry]\notlp_endpoint = \"https://c.example.com:4318/otel\"\n\
                    sample_ratio = 1\notlp_headers_file = \"h\"";
        let file = "# the key\n\nAuthorization: Bearer a:b\nX-Scope-OrgID: 7\r\n";
        let config = config(text, file).unwrap();
        assert!(!format!("{config:?}").contains("a:b"), "secrets are not printed");
        let traces = config.traces.unwrap();
        assert_eq!((traces.sample_ratio, &*traces.service_name), (1.0, "pierhead"));
        let headers: Vec<_> =
            traces.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(headers, [("authorization", "Bearer a:b"), ("x-scope-orgid", "7")]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, file, says) in [
            ("otlp_endpoint = \"c:4318\"", "", "starts with https:// or http://"),
            ("otlp_endpoint = \"http://c/v1/traces\"", "", "leave out the /v1/traces"),
            ("otlp_endpoint = \"http://u:p@c/\"", "", "must not hold a user"),
            ("sample_ratio = 1.1", "", "from 0 to 1"),
            ("sample_ratio = -1", "", "from 0 to 1"),
            ("sample_ratio = nan", "", "from 0 to 1"),
            ("sample_ratio = \"all\"", "", "expected a number"),
            ("service_name = \"\"", "", "1 to 255 bytes"),
            ("otlp_headers_file = \"h\"", "A: b\nsecret", "on line 2"),
            ("otlp_headers_file = \"h\"", "secret name: x", "on line 1"),
        ] {
            let error = config(&format!("[telemetry]\n{line}"), file).expect_err(line);
            assert!(error.contains(says), "{line}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
