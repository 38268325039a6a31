//! `server.tls` and `server.acme`: two small tables, and what they mean together.

use std::ops::Range;
use std::path::Path;

use toml::de::DeValue;
use url::{Host, Url};

use super::defaults;
use super::error::Problems;
use super::secrets::{CA_BYTES_MAX, ReadFile, read_named};
use super::sections::ServerSection;
use super::source::{At, Origin};
use super::table::{Placed, table};
use super::values::{BaseUrl, FilePath, List, OptionalPath, Refusal, Text, Value, read_text};
use crate::clock::Clock;
use crate::http::settings::{AcmeSettings, CertificateSource, TlsSettings};
use crate::http::tls::files::{self, ClientFiles, PairFiles};

/// The folder below `storage.path` for what ACME keeps.
const ACME_FOLDER: &str = "acme";

table! {
    /// `server.tls`
    TlsTable {
        cert: OptionalPath,
        key: OptionalPath,
        client_ca: OptionalPath,
        client_auth: ClientAuth,
    }
}

table! {
    /// `server.acme`
    AcmeTable {
        domains: List<Domain>,
        contact: Contact,
        directory: Directory,
        ca_file: OptionalPath,
    }
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAuth {
    Optional,
    Required,
}

impl Text for ClientAuth {
    const EXPECTED: &'static str = "\"optional\" or \"required\"";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            _ => Err("whether clients need a certificate is \"optional\" or \"required\"".into()),
        }
    }
}

/// A DNS name that a directory can issue a certificate for.
#[derive(Clone, Debug)]
pub(super) struct Domain(String);

impl Text for Domain {
    const EXPECTED: &'static str = "a DNS name";

    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("*.") {
            return Err("a wildcard cannot be proven by TLS-ALPN-01: name each host".into());
        }
        match Host::parse(text) {
            Ok(Host::Domain(name)) if !name.is_empty() && !name.ends_with('.') => Ok(Self(name)),
            _ => {
                Err("a domain is a DNS name such as \"mirror.example.com\", without scheme, port \
                      and path"
                    .into())
            }
        }
    }
}

/// Where a directory may reach the operator; empty means nowhere.
#[derive(Clone, Debug)]
pub(super) struct Contact(Option<String>);

impl Text for Contact {
    const EXPECTED: &'static str = "a URL such as \"mailto:ops@example.com\"";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        match Url::parse(text) {
            Ok(url) if url.scheme() == "mailto" && url.path().contains('@') => {
                Ok(Self(Some(text.to_owned())))
            }
            _ => Err("a contact is a URL such as \"mailto:ops@example.com\"".into()),
        }
    }
}

/// An ACME directory: HTTPS only (RFC 8555, section 6.1).
#[derive(Clone, Debug)]
pub(super) struct Directory(Url);

impl Text for Directory {
    const EXPECTED: &'static str = "a URL such as \"https://ca.example.com/directory\"";

    fn parse(text: &str) -> Result<Self, String> {
        let BaseUrl(url) = BaseUrl::parse(text)?;
        if url.scheme() == "https" { Ok(Self(url)) } else { Err("it starts with https://".into()) }
    }
}

impl Value for ClientAuth {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        read_text(value)
    }
}

impl Value for Domain {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        read_text(value)
    }
}

impl Value for Contact {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        read_text(value)
    }
}

impl Value for Directory {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        read_text(value)
    }
}

/// The place of something in a table, or the variable that holds the table.
fn within<T>(table: &At<T>, span: &Range<usize>) -> Origin {
    match &table.origin {
        Origin::File(_) => Origin::File(span.clone()),
        other => other.clone(),
    }
}

/// A path that was set and is not empty, with its place.
fn path(table: &At<TlsTable>, item: &Placed<OptionalPath>) -> Option<At<FilePath>> {
    let (OptionalPath(path), span) = item.as_ref()?;
    let value = FilePath(path.clone()?);
    Some(At { value, origin: within(table, span) })
}

/// How connections are encrypted; the files are read and checked. `storage` is where ACME keeps
/// its own.
pub(super) fn resolve(
    keys: &ServerSection,
    storage: &Path,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<TlsSettings> {
    let none = At { value: TlsTable::default(), origin: Origin::Nowhere };
    let tls = keys.tls.as_ref().unwrap_or(&none);
    let cert = path(tls, &tls.value.cert);
    let key = path(tls, &tls.value.key);
    let acme = keys.acme.as_ref().and_then(|table| acme(table, storage, read, problems));
    let clients = clients(tls, read, problems);
    let source = match (cert, key, acme) {
        (Some(cert), None, _) => {
            let help = "add `key`: the file of the certificate's private key";
            problems.add(&cert.origin, "`tls`: `cert` without `key`", Some(help));
            return None;
        }
        (None, Some(key), _) => {
            let help = "add `cert`: the file of the certificate that the key belongs to";
            problems.add(&key.origin, "`tls`: `key` without `cert`", Some(help));
            return None;
        }
        (Some(cert), Some(_), Some(_)) => {
            let acme = keys.acme.as_ref().map_or(&Origin::Nowhere, |at| &at.origin);
            let message = format!(
                "`tls` names a certificate, and `acme` ({}) is to get one",
                problems.name_of(acme)
            );
            problems.add(&cert.origin, message, Some("keep one of them"));
            return None;
        }
        (Some(cert), Some(key), None) => {
            CertificateSource::Files(check_pair(cert, key, read, problems)?)
        }
        (None, None, Some(acme)) => CertificateSource::Acme(acme),
        (None, None, None) => {
            let set = [
                tls.value.client_ca.as_ref().filter(|(path, _)| path.0.is_some()).map(|(_, s)| s),
                tls.value.client_auth.as_ref().map(|(_, span)| span),
            ];
            if let Some(span) = set.into_iter().flatten().next() {
                let message = "`tls`: clients cannot show certificates without TLS";
                let help = "add `cert` and `key`, or `acme`";
                problems.add(&within(tls, span), message, Some(help));
            }
            return None;
        }
    };
    Some(TlsSettings { source, clients })
}

fn check_pair(
    cert: At<FilePath>,
    key: At<FilePath>,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<PairFiles> {
    let certificate = read_named("tls.cert", &cert, files::PEM_BYTES_MAX, read, problems);
    let private = read_named("tls.key", &key, files::PEM_BYTES_MAX, read, problems);
    let (certificate, private) = (certificate?, private?);
    if let Err(error) = files::pair(&certificate, &private, Clock::system().now()) {
        let (name, file) =
            if error.is_about_the_key() { ("tls.key", &key) } else { ("tls.cert", &cert) };
        let path = file.value.0.display();
        problems.add(&file.origin, format!("`{name}`: cannot use {path}: {error}"), None);
        return None;
    }
    Some(PairFiles { certificate: cert.value.0, key: key.value.0 })
}

fn clients(
    tls: &At<TlsTable>,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<ClientFiles> {
    let Some(file) = path(tls, &tls.value.client_ca) else {
        if let Some((_, span)) = &tls.value.client_auth {
            let help = "add `client_ca`: the authorities whose certificates clients may show";
            problems.add(&within(tls, span), "`client_auth` without `client_ca`", Some(help));
        }
        return None;
    };
    authorities("tls.client_ca", &file, read, problems);
    let auth = tls.value.client_auth.as_ref().map_or(ClientAuth::Required, |(auth, _)| *auth);
    Some(ClientFiles { authorities: file.value.0, required: auth == ClientAuth::Required })
}

/// Checks that the file that `key` names holds authorities.
fn authorities(key: &str, file: &At<FilePath>, read: ReadFile<'_>, problems: &mut Problems<'_>) {
    let Some(content) = read_named(key, file, CA_BYTES_MAX, read, problems) else { return };
    if let Err(error) = files::authorities(&content) {
        let path = file.value.0.display();
        problems.add(&file.origin, format!("`{key}`: cannot use {path}: {error}"), None);
    }
}

fn acme(
    table: &At<AcmeTable>,
    storage: &Path,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<AcmeSettings> {
    let keys = &table.value;
    let domains: Vec<String> = keys.domains.as_ref().map_or_else(Vec::new, |(domains, _)| {
        domains.0.iter().map(|(domain, _)| domain.0.clone()).collect()
    });
    if domains.is_empty() {
        let others = [
            keys.contact.as_ref().filter(|(contact, _)| contact.0.is_some()).map(|(_, s)| s),
            keys.ca_file.as_ref().filter(|(path, _)| path.0.is_some()).map(|(_, s)| s),
        ];
        if let Some(span) = others.into_iter().flatten().next() {
            let help = "add `domains`: the names that the certificate is to be for";
            problems.add(&within(table, span), "`acme` without `domains`", Some(help));
        }
        return None;
    }
    let ca_file = keys.ca_file.as_ref().and_then(|(path, span)| {
        Some(At { value: FilePath(path.0.clone()?), origin: within(table, span) })
    });
    if let Some(file) = &ca_file {
        authorities("acme.ca_file", file, read, problems);
    }
    let directory = match &keys.directory {
        Some((directory, _)) => directory.0.clone(),
        // A test holds that the default is a URL.
        None => Url::parse(defaults::ACME_DIRECTORY).ok()?,
    };
    Some(AcmeSettings {
        domains,
        contact: keys.contact.as_ref().and_then(|(contact, _)| contact.0.clone()),
        directory,
        ca_file: ca_file.map(|file| file.value.0),
        folder: storage.join(ACME_FOLDER),
    })
}
