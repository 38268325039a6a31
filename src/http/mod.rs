//! The HTTP side: two listeners, the registry API and the operator's.
//!
//! | file | what it is about |
//! |---|---|
//! | [`server`] | connections: limits, time-outs, HTTP/1 and HTTP/2, drain |
//! | [`door`], [`overload`] | who comes in, and what is said of limits that are reached |
//! | [`activity`], [`paced`] | connections on which nothing happens, or too little |
//! | [`request_body`] | bodies that nobody reads |
//! | [`route`] | what a path and a query ask for (pure) |
//! | [`tls`] | certificates, ours and the clients' |
//! | [`connection`] | where a request really came from, behind trusted proxies |
//! | [`caller`] | who asks, and whether it may |
//! | [`login`], [`attempts`], [`challenge`] | credentials, those that fail, and how they are asked for |
//! | [`token`] | the token service |
//! | [`v2`] | the registry API, one file per thing that can be read |
//! | [`admin`] | the operator's side |
//! | [`body`] | response bodies |
//! | [`sending`] | mapped files that fail while the kernel sends them |
//! | [`error`] | the only place that chooses statuses |
//! | [`access`], [`metrics`] | what is written and counted of every request |
//! | [`recent`] | what went wrong lately |

pub mod access;
pub mod activity;
pub mod admin;
pub mod attempts;
pub mod body;
pub mod caller;
pub mod challenge;
pub mod connection;
pub mod door;
pub mod error;
pub mod login;
pub mod metrics;
pub mod overload;
pub mod paced;
pub mod recent;
pub mod request_body;
pub mod route;
pub mod sending;
pub mod server;
pub mod settings;
pub mod tls;
pub mod token;
pub mod v2;
