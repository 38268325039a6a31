//! Connections: accepted up to a limit, with or without TLS, HTTP/1.1 and HTTP/2 (chosen by TLS,
//! else by prior knowledge), ended when the client sends no request head, stops reading, or the
//! process drains.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_io_timeout::TimeoutStream;

use super::activity::{Activity, Advice, Noted, Patience};
use super::body::Body;
use super::connection::{Connection, forwarded};
use super::metrics::HttpMetrics;
use super::settings::ServerSettings;
use super::tls::handshake::{Acceptor, Shaken};
use crate::background::Tasks;

/// How long accepting pauses after the system refused a connection, typically because the process
/// has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often an HTTP/2 client that says nothing is asked whether it still lives.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);

/// How much of an answer may wait in memory for an HTTP/2 client to make room, in bytes a stream.
const HTTP2_SEND_BUFFER_BYTES: usize = 128 * 1024;

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
    slots: Arc<Semaphore>,
    patience: Patience,
    tls: Option<Acceptor>,
    trusted_proxies: Arc<[IpNet]>,
    tasks: Tasks,
    metrics: HttpMetrics,
}

impl Server {
    /// A listener called `name` in the metrics; encrypted if there is a `tls`.
    pub fn new(
        name: &'static str,
        settings: &ServerSettings,
        tls: Option<Acceptor>,
        tasks: Tasks,
        metrics: HttpMetrics,
    ) -> Self {
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
            .max_header_list_size(u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX))
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .keep_alive_timeout(settings.write_silence_timeout);
        Self {
            name,
            builder,
            slots: Arc::new(Semaphore::new(settings.connections_max)),
            patience: Patience {
                idle: settings.header_timeout,
                stalled: settings.write_silence_timeout,
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
            let accepted = async {
                // The limit is taken first: clients beyond it wait in the kernel's queue.
                let slot = Arc::clone(&self.slots).acquire_owned().await;
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = stopping.cancelled() => return,
            };
            let (Ok(slot), Ok((stream, peer))) = (slot, accepted) else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let server = self.clone();
            let service = Arc::clone(&service);
            self.tasks.spawn_answering("connection", async move {
                let _counted = server.metrics.connection(server.name);
                if let Err(error) = server.serve(stream, peer, service).await {
                    tracing::debug!(%peer, %error, "a connection ended early");
                }
                drop(slot);
            });
        }
    }

    async fn serve<S: Service>(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        service: Arc<S>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = TimeoutStream::new(stream);
        // Below TLS: what counts is whether the client takes bytes.
        stream.set_write_timeout(Some(self.patience.stalled));
        let stream = Box::pin(stream);
        let Some(tls) = &self.tls else {
            return self.converse(stream, peer, Connection::plain(), service).await;
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
                self.converse(stream, peer, connection, service).await
            }
            Shaken::Challenge => Ok(()),
        }
    }

    /// Serves requests on `stream` to their end.
    async fn converse<S: Service>(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        connection: Connection,
        service: Arc<S>,
    ) -> io::Result<()> {
        let activity = Activity::begin();
        let sending = connection.sending().clone();
        let service = service_fn({
            let activity = activity.clone();
            let proxies = Arc::clone(&self.trusted_proxies);
            move |mut request: Request<Incoming>| {
                let exchange = activity.request(request.version() == Version::HTTP_2);
                let service = Arc::clone(&service);
                let (peer, connection) =
                    forwarded(peer, connection.clone(), request.headers(), &proxies);
                request.extensions_mut().insert(connection);
                async move {
                    let answer = service.answer(request, peer).await;
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
                    Advice::Keep => {}
                    Advice::Finish if finishing => {}
                    Advice::Finish => {
                        finishing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    Advice::Cut => {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing happened"));
                    }
                },
            }
        }
    }
}
