//! What an operator says of traces.

use http::HeaderName;
use url::Url;

use crate::secret::Secret;

/// Where traces go, and how many.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// The collector's base URL; spans are posted to `v1/traces` below it.
    pub endpoint: Url,
    /// The share of traces that begin here and are exported, from 0 to 1. A client's request that
    /// carries `traceparent` keeps that one's decision.
    pub sample_ratio: f64,
    /// What Pierhead is called in the traces.
    pub service_name: String,
    /// Headers of every export, such as an API key.
    pub headers: Vec<(HeaderName, Secret)>,
}
