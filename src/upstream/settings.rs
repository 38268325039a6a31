//! What an operator can say about one upstream.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::scope::UpstreamName;
use crate::secret::Secret;

/// One upstream registry. Built by `config`, which has checked it.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// What clients call it.
    pub name: UpstreamName,
    /// Tried in order. `http` or `https`, without query; a path is a prefix of `/v2/`.
    pub endpoints: Vec<Url>,
    /// How to log in, if at all.
    pub credentials: Option<Credentials>,
    /// Hosts (beside the endpoints' own) whose token service may see the credentials.
    pub auth_hosts: Vec<String>,
    /// Hosts that redirects, realms and paging may lead to even at an internal address.
    pub redirect_hosts: Vec<String>,
    /// A PEM file of further certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy to dial through.
    pub proxy: Option<Url>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for response headers.
    pub header_timeout: Duration,
    /// How long a body may stay silent.
    pub silence_timeout: Duration,
}

/// How Pierhead logs in to an upstream.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// User and password: sent as Basic, or to the token service.
    Password {
        /// The user's name.
        username: String,
        /// The password or access token.
        password: Secret,
    },
    /// A ready bearer token, sent as it is.
    Token(Secret),
}
