//! Listening, connections, TLS and shutdown.
//!
//! Bounds: connections at once, bytes and number of headers, time for the head of a request (which is also how long a
//! connection may idle), time for the TLS handshake, time for draining, bytes and time for what a client still sends
//! after his answer. A connection over the limit waits in the kernel's queue. HTTP/1.1 only.
//!
//! Invariant: an address other than loopback is never bound without keys.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::Backend;
use super::config::HttpSettings;
use super::edge::EdgeParts;
use super::metrics::HttpMetrics;
use super::{routes, tls};

/// How long accepting pauses when the system refuses (too many open files, most often).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client that is answered before he has sent everything (a body over the limit, an unknown key) may go on sending so
/// much and for so long: closing at once would reset the connection, and the answer would be lost with it.
const LINGER_BYTES_MAX: u64 = 16 << 20;
const LINGER_TIME: Duration = Duration::from_secs(5);

/// Why the edge does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Everybody in the network could ask for decisions.
    #[error(
        "[http] bind = \"{bind}\" can be reached from other machines, and no keys are configured; add keys_file or keys_env, or bind 127.0.0.1"
    )]
    KeysRequired {
        /// The address.
        bind: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("{bind} cannot be bound: {source}; choose another address with [http] bind, or stop what uses it")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key file cannot be read.
    #[error("the TLS file {path} cannot be used: {reason}")]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificate and key do not fit.
    #[error("the TLS certificate and key cannot be used: {0}")]
    Tls(#[from] tokio_rustls::rustls::Error),
}

/// How serving ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drained {
    /// Connections that were cut off because the drain time was over.
    pub cut_off: usize,
}

/// A bound edge that does not serve yet.
pub struct Server {
    listener: TcpListener,
    local: SocketAddr,
    router: Router,
    connections: Connections,
    tls: Option<TlsAcceptor>,
}

/// What connections share.
#[derive(Clone, Debug)]
struct Connections {
    settings: Arc<HttpSettings>,
    metrics: HttpMetrics,
    slots: Arc<Semaphore>,
    /// Take no more requests.
    stop: CancellationToken,
    /// Drop what is left.
    cut: CancellationToken,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the address and builds everything that serving needs.
    ///
    /// # Errors
    /// [`StartError`]: the operator mends the configuration and starts again.
    pub async fn bind<B: Backend>(parts: EdgeParts<B>) -> Result<Self, StartError> {
        let bind = parts.settings.bind;
        if parts.keys.is_empty() && !bind.ip().is_loopback() {
            return Err(StartError::KeysRequired { bind });
        }
        let tls = parts.settings.tls.as_ref().map(tls::acceptor).transpose()?;
        let listener = TcpListener::bind(bind).await.map_err(|source| StartError::Bind { bind, source })?;
        let local = listener.local_addr().map_err(|source| StartError::Bind { bind, source })?;
        let settings = Arc::new(parts.settings.clone());
        let connections = Connections {
            slots: Arc::new(Semaphore::new(settings.connections_max)),
            settings,
            metrics: parts.metrics.clone(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        Ok(Self { listener, local, router: routes::router(parts), connections, tls })
    }

    /// The address it listens at.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `shutdown`, then stops accepting, lets requests in flight finish within the drain time, and cuts
    /// off the rest. When the future is dropped, open connections go on until their tasks end.
    pub async fn serve(self, shutdown: CancellationToken) -> Drained {
        let Self { listener, router, connections, tls, .. } = self;
        let tasks = TaskTracker::new();
        let accepting = async {
            loop {
                let slot = Arc::clone(&connections.slots).acquire_owned().await.expect("the semaphore is never closed");
                let stream = accept(&listener).await;
                let connection = connections.clone().serve(stream, tls.clone(), router.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            () = shutdown.cancelled() => {}
        }
        drop(listener);
        connections.stop.cancel();
        tasks.close();
        let in_time = timeout(connections.settings.drain_time, tasks.wait()).await;
        let cut_off = if in_time.is_ok() { 0 } else { tasks.len() };
        connections.cut.cancel();
        tasks.wait().await;
        if cut_off > 0 {
            tracing::warn!(connections = cut_off, "connections cut off at the end of the drain time");
        }
        Drained { cut_off }
    }
}

/// The next connection. What the system refuses is told and tried again.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return stream,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connections can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Connections {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>, router: Router) {
        let _open = self.metrics.connection();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY refused");
        }
        let Some(tls) = tls else {
            return self.speak(stream, router).await;
        };
        let handshake = timeout(self.settings.header_time, tls.accept(stream));
        tokio::select! {
            () = self.stop.cancelled() => {}
            shaken = handshake => match shaken {
                Ok(Ok(stream)) => self.speak(stream, router).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_elapsed) => tracing::debug!("TLS handshake took too long"),
            }
        }
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, router: Router) {
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.settings.header_time)
            .max_headers(self.settings.headers_max)
            .max_buf_size(self.settings.header_bytes_max)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let ended = tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => Some(ended),
            () = self.stop.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                Pin::new(&mut connection).graceful_shutdown();
                tokio::select! {
                    ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
                    () = self.cut.cancelled() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
        let stream = connection.into_parts().io.into_inner();
        tokio::select! {
            () = linger(stream) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Ends our side and takes what the other one still sends, within bounds, until he ends his.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let rest = async {
        stream.shutdown().await?;
        let mut rest = stream.take(LINGER_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    match timeout(LINGER_TIME, rest).await {
        Ok(Ok(_bytes)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection broke off"),
        Err(_elapsed) => tracing::debug!("a client went on sending after his answer"),
    }
}
