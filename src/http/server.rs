//! Accepts connections: bounded in number and age, with a time-out for slow headers, and drained at the end.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{HttpState, api::router, auth::Peer};

/// The longest headers.
const MAX_HEADERS: usize = 64 * 1024;
/// After a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the listener's backlog. Probes, a scraper and some dashboards need a tenth of
    /// the default, 256.
    pub connections: usize,
    /// Until the headers of a request are there, a kept-alive connection's next request included: 10 s.
    pub headers: Duration,
    /// From the end of a request's headers to its answer, its body included: 30 s.
    pub request: Duration,
    /// No connection grows older, so that who never reads its answers doesn't hold a place for ever: 10 minutes.
    pub connection: Duration,
    /// How long a stop waits for requests under way: 5 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            headers: Duration::from_secs(10),
            request: Duration::from_secs(30),
            connection: Duration::from_mins(10),
            drain: Duration::from_secs(5),
        }
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    limits: Limits,
}

impl Server {
    /// Listens, so that an address that is taken stops the start.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            limits: Limits::default(),
        })
    }

    /// The same with other limits.
    #[must_use]
    pub const fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where it listens; with port 0 this says which was given.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then finishes the requests under way, for [`Limits::drain`] at most.
    pub async fn run(self, state: HttpState, stop: CancellationToken) {
        let limits = self.limits;
        let router = router(state, limits.request);
        let places = Arc::new(Semaphore::new(limits.connections));
        let tasks = TaskTracker::new();
        loop {
            // The place before the accept: who has none waits in the kernel and costs us nothing.
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => match place {
                    Ok(place) => place,
                    Err(_) => break,
                },
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    tasks.spawn(async move {
                        connection(stream, router.layer(axum::Extension(Peer(peer))), limits, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tasks.close();
        if tokio::time::timeout(limits.drain, tasks.wait()).await.is_err() {
            tracing::warn!("HTTP requests were cut off at the stop");
        }
    }
}

async fn connection(stream: TcpStream, router: axum::Router, limits: Limits, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_header_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = sleep(limits.connection) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        match tokio::time::timeout(limits.drain, connection).await {
            Ok(ended) => ended,
            Err(_) => return,
        }
    };
    if let Err(error) = ended {
        // Scanners and cut connections; nothing of ours.
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}
