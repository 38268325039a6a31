//! The types of configuration values: each is checked where it is read, so that an error can
//! name its line.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;
use url::{Host, Url};

use super::{LogFormat, LogLevel};
use crate::oci::RepoName;
use crate::scope::UpstreamName;

/// The longest duration: more is a slip, and far less than what clocks can count.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The longest list.
const ITEMS_MAX: usize = 1000;

/// Why a value was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What is wrong and what would be right.
    pub(super) message: String,
    /// Where exactly, when it is a part of the value.
    pub(super) span: Option<Range<usize>>,
    /// Whether the value has the wrong type: another reading of it might fit.
    pub(super) wrong_type: bool,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, wrong_type: false }
    }

    pub(super) fn wrong_type(expected: &str, value: &DeValue<'_>) -> Self {
        let found = match value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        Self {
            message: format!("expected {expected}, found {found}"),
            span: None,
            wrong_type: true,
        }
    }
}

/// What can stand behind a key.
pub(super) trait Value: Sized {
    /// Checks a TOML value.
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal>;
}

/// What is written as a string.
pub(super) trait Text: Sized {
    /// The words behind "expected".
    const EXPECTED: &'static str;
    /// Checks the text. Its message must not repeat the text: it may hold a password.
    fn parse(text: &str) -> Result<Self, String>;
}

/// Checks a TOML value that has to be a string.
pub(super) fn read_text<T: Text>(value: &DeValue<'_>) -> Result<T, Refusal> {
    match value {
        DeValue::String(text) => T::parse(text).map_err(Refusal::new),
        other => Err(Refusal::wrong_type(T::EXPECTED, other)),
    }
}

macro_rules! texts {
    ($($type:ty),* $(,)?) => {$(
        impl Value for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
                read_text(value)
            }
        }
    )*};
}

texts!(
    Alias,
    BaseUrl,
    FilePath,
    HostedPrefix,
    HostName,
    Listen,
    LogFormat,
    LogLevel,
    NamedHost,
    Network,
    OptionalPath,
    Period,
    PublicUrl,
    Timeout,
    UserName,
);

impl Value for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        value.as_bool().ok_or_else(|| Refusal::wrong_type("true or false", value))
    }
}

/// A list whose items know their places.
#[derive(Clone, Debug)]
pub(super) struct List<T>(pub(super) Vec<(T, Range<usize>)>);

impl<T: Value> Value for List<T> {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let DeValue::Array(items) = value else {
            return Err(Refusal::wrong_type("a list such as [\"a\", \"b\"]", value));
        };
        if items.len() > ITEMS_MAX {
            return Err(Refusal::new(format!("a list has at most {ITEMS_MAX} items")));
        }
        let read = |item: &Spanned<DeValue<'_>>| match T::read(item.get_ref()) {
            Ok(value) => Ok((value, item.span())),
            Err(refusal) => Err(Refusal { span: Some(item.span()), ..refusal }),
        };
        items.iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}

/// An integer between `MIN` and `MAX`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<const MIN: u32, const MAX: u32> Value for Count<MIN, MAX> {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let number = integer(value, "an integer")?;
        u32::try_from(number)
            .ok()
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Self)
            .ok_or_else(|| Refusal::new(format!("must be from {MIN} to {MAX}")))
    }
}

fn integer(value: &DeValue<'_>, expected: &str) -> Result<i64, Refusal> {
    let integer = value.as_integer().ok_or_else(|| Refusal::wrong_type(expected, value))?;
    i64::from_str_radix(integer.as_str(), integer.radix())
        .map_err(|_| Refusal::new("is too large a number"))
}

/// A number of bytes between `MIN` and `MAX`: `"50GiB"`, `"500MB"`, or an integer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Value for Size<MIN, MAX> {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let bytes = match value {
            DeValue::String(text) => parse_size(text).map_err(Refusal::new)?,
            other => {
                let number = integer(other, "a size such as \"50GiB\"")?;
                u64::try_from(number).map_err(|_| Refusal::new("a size is not negative"))?
            }
        };
        if (MIN..=MAX).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(Refusal::new(format!("must be from {MIN} to {MAX} bytes")))
        }
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    const HOW: &str = "a size is a whole number and a unit: B, kB, MB, GB, TB (powers of 1000) or \
                       KiB, MiB, GiB, TiB (powers of 1024), such as \"50GiB\"";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start_matches(' ').to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "tb" => 1000 * 1000 * 1000 * 1000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(HOW.to_owned()),
    };
    if number.is_empty() {
        return Err(HOW.to_owned());
    }
    let number: u64 = number.parse().map_err(|_| "the size is too large".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "the size is too large".to_owned())
}

/// A duration that may be zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period(pub(super) Duration);

impl Text for Period {
    const EXPECTED: &'static str = "a duration in quotes, such as \"60s\"";

    fn parse(text: &str) -> Result<Self, String> {
        let how = "a duration is numbers and units, such as \"500ms\", \"60s\", \"1h 30m\"";
        let duration = humantime::parse_duration(text).map_err(|_| how.to_owned())?;
        if duration > DURATION_MAX {
            return Err("a duration is at most 365 days".to_owned());
        }
        Ok(Self(duration))
    }
}

/// A duration that ends a wait: not zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeout(pub(super) Duration);

impl Text for Timeout {
    const EXPECTED: &'static str = Period::EXPECTED;

    fn parse(text: &str) -> Result<Self, String> {
        match Period::parse(text)? {
            Period(Duration::ZERO) => Err("a time limit cannot be zero".to_owned()),
            Period(duration) => Ok(Self(duration)),
        }
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listen(pub(super) SocketAddr);

impl Text for Listen {
    const EXPECTED: &'static str = "an address such as \"127.0.0.1:5000\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            "an address to listen on is an IP address and a port: \"127.0.0.1:5000\" (this \
             machine only), \"0.0.0.0:5000\" or \"[::]:5000\" (every interface)"
                .to_owned()
        })
    }
}

/// An `http` or `https` URL without user, query and fragment.
#[derive(Clone, Debug)]
pub(super) struct BaseUrl(pub(super) Url);

impl Text for BaseUrl {
    const EXPECTED: &'static str = "a URL such as \"https://registry.example.com\"";

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => {
                "a URL starts with https:// or http://".to_owned()
            }
            error => format!("not a URL: {error}"),
        })?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err("a URL starts with https:// or http:// and a host".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL here must not hold a user or password: for an upstream, use \
                        `username` and `password_file`"
                .to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("a URL here has no `?` and no `#`".to_owned());
        }
        if url.path().trim_end_matches('/').ends_with("/v2") {
            return Err("leave out the /v2: it is added to every request".to_owned());
        }
        Ok(Self(url))
    }
}

/// Our own URL behind a proxy; empty means none.
#[derive(Clone, Debug)]
pub(super) struct PublicUrl(pub(super) Option<Url>);

impl Text for PublicUrl {
    const EXPECTED: &'static str = "a URL such as \"https://mirror.example.com\"";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let BaseUrl(url) = BaseUrl::parse(text)?;
        if url.path() != "/" {
            return Err(
                "clients find a registry at the root of a host only: leave out the path".to_owned()
            );
        }
        Ok(Self(Some(url)))
    }
}

/// A host as [`Url::host_str`] writes it, for any port; or with a port, for that one.
#[derive(Clone, Debug)]
pub(super) struct HostName(pub(super) String);

impl Text for HostName {
    const EXPECTED: &'static str = "a host name";

    fn parse(text: &str) -> Result<Self, String> {
        // A host holds no colon but inside [::1].
        let whole = Host::parse(text).map(|host| host.to_string()).ok();
        let with_port = || {
            let (host, port) = text.rsplit_once(':')?;
            let (host, port) = (Host::parse(host).ok()?, port.parse::<u16>().ok()?);
            Some(format!("{host}:{port}"))
        };
        whole.or_else(with_port).map(Self).ok_or_else(|| {
            "a host such as \"auth.example.com\", or \"10.0.0.5:9000\" for one port, without \
             scheme and path"
                .to_owned()
        })
    }
}

/// A host under which clients reach us, in lower case, with a port if it must be that one.
#[derive(Clone, Debug)]
pub(super) struct NamedHost(pub(super) String);

impl Text for NamedHost {
    const EXPECTED: &'static str = "a host name";

    fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        match lower.parse::<UpstreamName>() {
            Ok(_) => Ok(Self(lower)),
            Err(_) => {
                Err("a host name such as \"ghcr.mirror.example\", without scheme and path"
                    .to_owned())
            }
        }
    }
}

/// One path component that selects an upstream.
#[derive(Clone, Debug)]
pub(super) struct Alias(pub(super) RepoName);

impl Text for Alias {
    const EXPECTED: &'static str = "a name such as \"local\"";

    fn parse(text: &str) -> Result<Self, String> {
        let name: RepoName = text.parse().map_err(|_| {
            "an alias is the first part of image names: lower-case letters and digits, joined by \
             '.', '_' or '-'"
                .to_owned()
        })?;
        if name.split_first().is_some() {
            return Err("an alias is one path component, without '/'".to_owned());
        }
        Ok(Self(name))
    }
}

/// A prefix of hosted names, with its `/`; empty for `*`.
#[derive(Clone, Debug)]
pub(super) struct HostedPrefix(pub(super) String);

impl Text for HostedPrefix {
    const EXPECTED: &'static str = "a prefix such as \"hosted/\"";

    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(String::new()));
        }
        let name = text.strip_suffix('/').and_then(|name| name.parse::<RepoName>().ok());
        match name {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err("a prefix of hosted names is lower-case path components that end with \
                         '/', such as \"hosted/\"; \"*\" means every bare name"
                .to_owned()),
        }
    }
}

/// A file or directory.
#[derive(Clone, Debug)]
pub(super) struct FilePath(pub(super) PathBuf);

impl Text for FilePath {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the path is empty".to_owned());
        }
        if text.contains('\0') {
            return Err("a path holds no zero byte".to_owned());
        }
        Ok(Self(text.into()))
    }
}

/// A file; empty means none.
#[derive(Clone, Debug)]
pub(super) struct OptionalPath(pub(super) Option<PathBuf>);

impl Text for OptionalPath {
    const EXPECTED: &'static str = FilePath::EXPECTED;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        FilePath::parse(text).map(|FilePath(path)| Self(Some(path)))
    }
}

/// A network, or one address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network(pub(super) IpNet);

impl Text for Network {
    const EXPECTED: &'static str = "a network such as \"10.0.0.0/8\"";

    fn parse(text: &str) -> Result<Self, String> {
        let one = text.parse::<IpAddr>().map(|ip| IpNet::from(ip.to_canonical())).ok();
        one.or_else(|| text.parse().ok()).map(Self).ok_or_else(|| {
            "a network is written \"10.0.0.0/8\" or \"fd00::/8\", and one address \"127.0.0.1\""
                .to_owned()
        })
    }
}

/// The user part of credentials.
#[derive(Clone, Debug)]
pub(super) struct UserName(pub(super) String);

impl Text for UserName {
    const EXPECTED: &'static str = "a user name";

    fn parse(text: &str) -> Result<Self, String> {
        // RFC 7617: the user ends at the first colon, and controls cannot be sent.
        if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
            return Err(
                "a user name is not empty and holds no ':' and no control characters".to_owned()
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl Text for LogLevel {
    const EXPECTED: &'static str = "a level such as \"info\"";

    fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or_else(|| {
            "a level is \"error\", \"warn\", \"info\", \"debug\" or \"trace\"".to_owned()
        })
    }
}

impl Text for LogFormat {
    const EXPECTED: &'static str = "\"text\" or \"json\"";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("a format is \"text\" or \"json\"".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Value>(toml: &str) -> Result<T, String> {
        let value = DeValue::parse(toml).expect("test input is TOML");
        T::read(value.get_ref()).map_err(|refusal| refusal.message)
    }

    #[test]
    fn sizes() {
        type Any = Size<0, { u64::MAX }>;
        for (text, bytes) in [
            ("\"50GiB\"", 50 << 30),
            ("\"500MB\"", 500_000_000),
            ("\"1 kb\"", 1000),
            ("\"7\"", 7),
            ("0x10", 16),
        ] {
            assert_eq!(read::<Any>(text).unwrap().0, bytes, "{text}");
        }
        for text in
            ["\"\"", "\"GiB\"", "\"5G\"", "\"-1B\"", "\"1.5GiB\"", "\"99999999TiB\"", "-1", "true"]
        {
            assert!(read::<Any>(text).is_err(), "{text}");
        }
        assert!(read::<Size<8, 9>>("7").unwrap_err().contains("from 8 to 9"));
    }

    #[test]
    fn durations() {
        assert_eq!(read::<Period>("\"1h 30m\"").unwrap().0, Duration::from_secs(5400));
        assert_eq!(read::<Period>("\"0s\"").unwrap().0, Duration::ZERO);
        assert!(read::<Timeout>("\"0s\"").unwrap_err().contains("zero"));
        assert!(read::<Period>("60").unwrap_err().contains("in quotes"));
        assert!(read::<Period>("\"60\"").unwrap_err().contains("units"));
        assert!(read::<Period>("\"400days\"").unwrap_err().contains("365"));
    }

    #[test]
    fn urls() {
        assert!(read::<BaseUrl>("\"http://10.0.0.1:5000/prefix\"").is_ok());
        for (text, says) in [
            ("registry.example.com", "starts with https://"),
            ("localhost:5000", "starts with https://"),
            ("ftp://a", "starts with https://"),
            ("https://", "not a URL"),
            ("https://u:p@a", "password_file"),
            ("https://a?b", "no `?`"),
            ("https://a/v2/", "leave out the /v2"),
        ] {
            let message = read::<BaseUrl>(&format!("\"{text}\"")).unwrap_err();
            assert!(message.contains(says), "{text}: {message}");
        }
        assert!(read::<PublicUrl>("\"\"").unwrap().0.is_none());
        assert!(read::<PublicUrl>("\"https://a/b\"").is_err());
    }

    #[test]
    fn names() {
        assert_eq!(read::<HostName>("\"AUTH.example\"").unwrap().0, "auth.example");
        assert_eq!(read::<HostName>("\"[::1]\"").unwrap().0, "[::1]");
        assert_eq!(read::<HostName>("\"A:443\"").unwrap().0, "a:443");
        assert_eq!(read::<HostName>("\"[::1]:9000\"").unwrap().0, "[::1]:9000");
        for bad in ["\"\"", "\"a:b\"", "\"https://a\"", "\"a/b\"", "\":1\"", "\"a:99999\""] {
            assert!(read::<HostName>(bad).is_err(), "{bad}");
        }
        assert_eq!(read::<NamedHost>("\"Ghcr.Mirror:80\"").unwrap().0, "ghcr.mirror:80");
        assert!(read::<NamedHost>("\"http://x\"").is_err());
        assert!(read::<Alias>("\"a/b\"").unwrap_err().contains("one path component"));
        assert!(read::<Alias>("\"A\"").is_err());
        assert_eq!(read::<HostedPrefix>("\"*\"").unwrap().0, "");
        assert_eq!(read::<HostedPrefix>("\"a/b/\"").unwrap().0, "a/b/");
        for bad in ["\"\"", "\"/\"", "\"a\"", "\"A/\"", "\"a//\""] {
            assert!(read::<HostedPrefix>(bad).is_err(), "{bad}");
        }
        assert!(read::<UserName>("\"a:b\"").is_err());
        assert!(read::<LogLevel>("\"INFO\"").is_err());
        assert_eq!(read::<Network>("\"10.0.0.0/8\"").unwrap().0.to_string(), "10.0.0.0/8");
        assert_eq!(read::<Network>("\"::ffff:1.2.3.4\"").unwrap().0.to_string(), "1.2.3.4/32");
        for bad in ["\"\"", "\"10.0.0.0/33\"", "\"proxy.example\"", "\"1.2.3.4:80\""] {
            assert!(read::<Network>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_names_the_place_of_a_bad_item() {
        let value = DeValue::parse("[\"a\", 5]").expect("test input is TOML");
        let refusal = List::<HostName>::read(value.get_ref()).unwrap_err();
        assert_eq!(refusal.span, Some(6..7));
        assert!(read::<List<HostName>>("\"a\"").unwrap_err().contains("a list"));
    }

    #[test]
    fn counts() {
        assert_eq!(read::<Count<1, 9>>("9").unwrap().0, 9);
        for bad in ["0", "10", "-1", "99999999999999999999", "1.0", "\"1\""] {
            assert!(read::<Count<1, 9>>(bad).is_err(), "{bad}");
        }
    }
}
