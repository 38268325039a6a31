//! Connections: accepted up to a limit, with or without TLS, HTTP/1.1 and HTTP/2 (chosen by TLS,
//! else by prior knowledge), ended when the client sends no request head, stops reading or reads
//! next to nothing, or the process drains.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_io_timeout::TimeoutStream;

use super::activity::{Activity, Advice, Noted, Patience};
use super::body::{Body, HTTP2_SEND_BUFFER_BYTES};
use super::connection::{Connection, forwarded};
use super::door::{Door, Inside, Knock};
use super::error::ApiError;
use super::metrics::HttpMetrics;
use super::overload::Overload;
use super::paced::Paced;
use super::route::is_probe;
use super::settings::ServerSettings;
use super::tls::handshake::{Acceptor, Shaken};
use crate::background::Tasks;
use crate::gate::Full;

/// How long accepting pauses after the system refused a connection, typically because the process
/// has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often an HTTP/2 client that says nothing is asked whether it still lives.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);

/// Streams that a client may have reset before we have looked at them; one more ends the
/// connection (CVE-2023-44487).
pub const HTTP2_PENDING_RESETS_MAX: usize = 20;

/// Streams that we may have to reset because of a client's mistakes; one more ends the connection
/// (CVE-2025-8671).
pub const HTTP2_LOCAL_RESETS_MAX: usize = 256;

/// How much of a request's body may be on its way before we have looked at it, in bytes a stream:
/// what HTTP/2 begins with. Nobody has much to send here.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 65_535;

/// The same for a whole connection, in bytes.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// The largest frame that a client may send, in bytes: the least that HTTP/2 allows.
const HTTP2_FRAME_BYTES_MAX: u32 = 16 << 10;

/// How long a connection may take that is only told that there are too many.
pub const REFUSAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// The answer to `request` from `peer`: the client, as far as trusted proxies tell (its port
    /// is 0 then). The request's extensions hold its [`Connection`]. Every failure is an answer
    /// too.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// One listener and its limits.
#[derive(Clone, Debug)]
pub struct Server {
    name: &'static str,
    builder: auto::Builder<TokioExecutor>,
    door: Door,
    overload: Overload,
    patience: Patience,
    tls: Option<Acceptor>,
    trusted_proxies: Arc<[IpNet]>,
    tasks: Tasks,
    metrics: HttpMetrics,
}

/// What a listener is made of, beside its settings.
#[derive(Clone, Debug)]
pub struct ServerParts {
    /// What it is called in the metrics.
    pub name: &'static str,
    /// Encrypts its connections, if they are.
    pub tls: Option<Acceptor>,
    /// Who comes in.
    pub door: Door,
    /// Where it is noted that somebody does not.
    pub overload: Overload,
    /// Who runs the connections.
    pub tasks: Tasks,
    /// Counters.
    pub metrics: HttpMetrics,
}

impl Server {
    /// Puts a listener together.
    pub fn new(settings: &ServerSettings, parts: ServerParts) -> Self {
        let ServerParts { name, tls, door, overload, tasks, metrics } = parts;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(settings.header_bytes_max);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.http2_streams_max)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS_MAX)
            .max_local_error_reset_streams(HTTP2_LOCAL_RESETS_MAX)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES_MAX)
            .max_header_list_size(u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX))
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .keep_alive_timeout(settings.write_silence_timeout);
        Self {
            name,
            builder,
            door,
            overload,
            patience: Patience {
                idle: settings.header_timeout,
                stalled: settings.write_silence_timeout,
                rate_min: settings.write_rate_min,
            },
            tls,
            trusted_proxies: settings.trusted_proxies.clone().into(),
            tasks,
            metrics,
        }
    }

    /// Accepts and serves until the process is asked to stop. Connections that are answering then
    /// go on as tasks of the process.
    pub async fn run<S: Service>(self, listener: TcpListener, service: Arc<S>) {
        let stopping = self.tasks.stopping();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopping.cancelled() => return,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (inside, refused) = match self.door.knock(peer.ip()) {
                Knock::Welcome(inside) => (inside, None),
                Knock::Refused(full, inside) => (inside, Some(full)),
                Knock::Closed(full) => {
                    self.overload.refused(full.0, peer.ip());
                    continue;
                }
            };
            let server = self.clone();
            let service = Arc::clone(&service);
            self.tasks.spawn_answering("connection", async move {
                let _counted = server.metrics.connection(server.name);
                let serving = server.serve(stream, peer, refused, service);
                let served = match refused {
                    None => serving.await,
                    Some(full) => {
                        server.overload.refused(full.0, peer.ip());
                        let served = tokio::time::timeout(REFUSAL_TIMEOUT, serving).await;
                        served.unwrap_or_else(|_| Err(late("the client does not hear a refusal")))
                    }
                };
                if let Err(error) = served {
                    server.metrics.ended_early(server.name, timed_out(&error));
                    tracing::debug!(%peer, %error, "a connection ended early");
                }
                drop(inside);
            });
        }
    }

    async fn serve<S: Service>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        refused: Option<Full>,
        service: Arc<S>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = TimeoutStream::new(stream);
        // Below TLS: what counts is whether the client takes bytes.
        stream.set_write_timeout(Some(self.patience.stalled));
        let stream = Box::pin(stream);
        let Some(tls) = &self.tls else {
            let caller = Caller { peer, connection: Connection::plain(), refused };
            return self.converse(stream, caller, service).await;
        };
        let stopping = self.tasks.stopping();
        let shaken = tokio::select! {
            shaken = tls.accept(stream, self.patience.idle) => shaken?,
            // Nothing was asked yet, so nothing is cut.
            () = stopping.cancelled() => return Ok(()),
        };
        match shaken {
            Shaken::Client(stream, certificate) => {
                let connection = Connection::encrypted(certificate);
                self.converse(stream, Caller { peer, connection, refused }, service).await
            }
            Shaken::Challenge => Ok(()),
        }
    }

    /// Serves requests on `stream` to their end.
    async fn converse<S: Service>(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        caller: Caller,
        service: Arc<S>,
    ) -> io::Result<()> {
        let activity = Activity::begin();
        let stream = Paced::new(stream, activity.clone());
        let sending = caller.connection.sending().clone();
        let service = service_fn({
            let activity = activity.clone();
            let server = self.clone();
            move |mut request: Request<Incoming>| {
                let is_http2 = request.version() == Version::HTTP_2;
                let mut exchange = activity.request(is_http2);
                let (service, server) = (Arc::clone(&service), server.clone());
                let (client, connection) = forwarded(
                    caller.peer,
                    caller.connection.clone(),
                    request.headers(),
                    &server.trusted_proxies,
                );
                let entered = server.admit(&caller, client, &request);
                let refused = caller.refused.is_some();
                request.extensions_mut().insert(connection);
                async move {
                    let mut answer = match entered {
                        Ok(inside) => {
                            if let Some(inside) = inside {
                                exchange.takes(inside);
                            }
                            service.answer(request, client).await
                        }
                        Err(full) => server.refuse(full, &request),
                    };
                    if refused && !is_http2 {
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(http::header::CONNECTION, close);
                    }
                    Ok::<_, Infallible>(answer.map(|body| Noted::new(body, exchange)))
                }
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let stopping = self.tasks.stopping();
        let mut watch = tokio::time::interval(self.patience.idle.min(self.patience.stalled) / 4);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut finishing = false;
        // When an idle connection has to be gone that was asked to end.
        let mut finished_by: Option<Instant> = None;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    return ended
                        .inspect_err(|error| sending.failed(&**error))
                        .map_err(io::Error::other);
                }
                () = stopping.cancelled(), if !finishing => {
                    finishing = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = watch.tick() => match activity.advice(self.patience) {
                    Advice::Keep => finished_by = None,
                    Advice::Finish => {
                        if !finishing {
                            finishing = true;
                            connection.as_mut().graceful_shutdown();
                        }
                        let by = finished_by.get_or_insert(Instant::now() + self.patience.idle);
                        if Instant::now() >= *by {
                            return Err(late("the client does not end its idle connection"));
                        }
                    }
                    Advice::Cut => return Err(late("nothing happened")),
                    Advice::TooSlow => {
                        self.metrics.too_slow();
                        return Err(late("the client takes less than server.write_rate_min"));
                    }
                },
            }
        }
    }

    /// A place for a request that `client` sends; none for a probe, which always has one.
    fn admit(
        &self,
        caller: &Caller,
        client: SocketAddr,
        request: &Request<Incoming>,
    ) -> Result<Option<Inside>, Full> {
        if is_probe(request.uri().path()) {
            return Ok(None);
        }
        if let Some(full) = caller.refused {
            // It is noted already, with the connection.
            return Err(full);
        }
        let entered = self.door.request(client.ip());
        if let Err(full) = &entered {
            self.overload.refused(full.0, client.ip());
        }
        entered.map(Some)
    }

    fn refuse(&self, full: Full, request: &Request<Incoming>) -> Response<Body> {
        let error = ApiError::from(full);
        self.metrics.answered("refused", error.status(), ("", ""), 0.0);
        error.into_response(request.method() == Method::HEAD)
    }
}

/// Who is at the other end of a connection.
struct Caller {
    peer: SocketAddr,
    connection: Connection,
    /// The limit beyond which it is: all that it hears is that.
    refused: Option<Full>,
}

fn late(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Whether a connection ended because its client took too long for something.
fn timed_out(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let of_io = error.downcast_ref::<io::Error>();
        let of_http = error.downcast_ref::<hyper::Error>();
        if of_io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
            || of_http.is_some_and(hyper::Error::is_timeout)
        {
            return true;
        }
        // The standard library's own errors hide what they are made of.
        cause = match of_io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}
