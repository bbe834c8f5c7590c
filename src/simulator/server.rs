//! How does a call come in and an answer go out? HTTP/1.1 by hyper, on threads of its own, each with its own runtime and
//! its own connections, so that no answer waits for another thread; and what a fault does to a connection. It knows
//! nothing of what a call means.

use std::{
    fmt,
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{
    control,
    core::{Core, Reply, Step},
    faults::Ending,
};

/// The longest body that is read: many times what the longest valid batch has.
const MAX_REQUEST: usize = 1024 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How often a held connection is looked at for whether its client is gone, where the system can't tell at once.
const GONE_CHECK: Duration = Duration::from_millis(50);

/// The running server: it stops when this is dropped.
pub(super) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Binds the address and starts the threads.
    pub(super) fn start(core: &Arc<Core>, listen: SocketAddr, threads: usize) -> anyhow::Result<Self> {
        let listener = bind(listen).with_context(|| format!("listen on {listen}"))?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (mut senders, mut handles) = (Vec::new(), Vec::new());
        for number in 0..threads.max(1) {
            let (sender, receiver) = mpsc::unbounded_channel();
            senders.push(sender);
            let (core, stop) = (Arc::clone(core), stop.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let run = move || {
                runtime
                    .block_on(stop.run_until_cancelled(serve(core, receiver)))
                    .unwrap_or_default();
            };
            handles.push(thread::Builder::new().name(format!("simulator-{number}")).spawn(run)?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let accept_stop = stop.clone();
        let run = move || {
            runtime.block_on(accept_stop.run_until_cancelled(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => accept(&listener, &senders).await,
                    Err(error) => tracing::error!(%error, "the simulator can't accept connections"),
                }
            }));
        };
        handles.push(thread::Builder::new().name("simulator-accept".to_owned()).spawn(run)?);
        Ok(Self {
            address,
            stop,
            threads: handles,
        })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the simulator panicked");
            }
        }
    }
}

fn bind(listen: SocketAddr) -> anyhow::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Hands connections to the threads by turns.
async fn accept(listener: &TcpListener, threads: &[mpsc::UnboundedSender<(StdStream, SocketAddr)>]) {
    let mut turn = 0;
    loop {
        let accepted = match listener.accept().await {
            Ok((stream, peer)) => stream.into_std().map(|stream| (stream, peer)),
            Err(error) => Err(error),
        };
        match accepted {
            Ok(connection) => {
                turn = (turn + 1) % threads.len();
                if threads[turn].send(connection).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(GONE_CHECK).await;
            }
        }
    }
}

/// Serves the connections that one thread is given.
async fn serve(core: Arc<Core>, mut connections: mpsc::UnboundedReceiver<(StdStream, SocketAddr)>) {
    while let Some((stream, peer)) = connections.recv().await {
        let core = Arc::clone(&core);
        tokio::spawn(async move {
            if let Err(error) = connection(core, stream, peer).await {
                tracing::debug!(%error, "a connection to the simulator ended");
            }
        });
    }
}

/// Serves one connection to its end.
async fn connection(core: Arc<Core>, stream: StdStream, peer: SocketAddr) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let wire = Arc::new(Wire(stream.as_fd().try_clone_to_owned()?));
    let stream = TcpStream::from_std(stream)?;
    let service = service_fn(move |request| {
        let (core, wire) = (Arc::clone(&core), Arc::clone(&wire));
        async move { answer(&core, &wire, peer, request).await }
    });
    // half_close: a client that is gone must not cancel a call whose body arrived whole.
    http1::Builder::new()
        .half_close(true)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

/// A second handle on a connection's socket, for what hyper doesn't do: reset it, and see that its client is gone.
struct Wire(OwnedFd);

impl Wire {
    /// Lets the connection end with a reset (`SO_LINGER` 0) instead of a FIN.
    fn reset(&self) {
        if let Err(error) = SockRef::from(&self.0).set_linger(Some(Duration::ZERO)) {
            tracing::warn!(%error, "set SO_LINGER on a connection of the simulator");
        }
    }

    /// Returns when the client has closed the connection.
    async fn gone(&self) {
        let stream = self.0.try_clone().map(StdStream::from).and_then(TcpStream::from_std);
        let Ok(stream) = stream else { return };
        while let Ok(ready) = stream.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // Something else is there to read, a next request: it isn't ours to take.
            tokio::time::sleep(GONE_CHECK).await;
        }
    }
}

/// Why a connection is given up: a fault said so, or the request can't be read.
#[derive(Debug)]
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut")
    }
}

impl std::error::Error for Cut {}

/// The body of an answer, whole or broken off in its middle.
struct Answer {
    bytes: Option<Bytes>,
    /// How many bytes were promised and don't come.
    missing: u64,
    /// Whether the bytes before the break had their chance to leave.
    flushed: bool,
}

impl Answer {
    const fn whole(bytes: Bytes) -> Self {
        Self {
            bytes: Some(bytes),
            missing: 0,
            flushed: false,
        }
    }

    fn half(bytes: &Bytes) -> Self {
        let half = bytes.len() / 2;
        Self {
            bytes: Some(bytes.slice(..half)),
            missing: (bytes.len() - half) as u64,
            flushed: false,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if self.missing == 0 {
            return Poll::Ready(None);
        }
        if !self.flushed {
            // An error right away would throw away what hyper holds in its buffer: let it flush that first.
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(Cut)))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.missing == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64) + self.missing)
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Answers one request.
async fn answer(
    core: &Arc<Core>,
    wire: &Wire,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Cut> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_REQUEST)
        .collect()
        .await
        .map_err(|_| Cut)?
        .to_bytes();
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    if let Some(path) = path.strip_prefix(control::PREFIX) {
        let (status, text) = if peer.ip().to_canonical().is_loopback() {
            control::handle(core, &head.method, path, query, &body)
        } else {
            (
                StatusCode::FORBIDDEN,
                r#"{"error":"the control API is for loopback only"}"#.to_owned(),
            )
        };
        return Ok(respond(status, "application/json", Answer::whole(text.into())));
    }
    let Reply { text, ending, late } = match core.call(head.method == Method::POST, path, query, &body) {
        Step::Reply(reply) => reply,
        Step::Later(wait, deferred) => {
            let core = Arc::clone(core);
            // A task of its own, so that it is carried out even if this connection ends.
            let later = tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                core.resume(deferred)
            });
            later.await.map_err(|_| Cut)?
        }
    };
    if !late.is_zero() {
        tokio::time::sleep(late).await;
    }
    let text = Bytes::from(text);
    match ending {
        Ending::Answer | Ending::Code(_) | Ending::NoMsgKey => {
            Ok(respond(StatusCode::OK, "application/json", Answer::whole(text)))
        }
        Ending::Http(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            let page = Bytes::from(format!("<html><body><h1>{status}</h1></body></html>"));
            Ok(respond(status, "text/html", Answer::whole(page)))
        }
        Ending::Garbage => {
            let page = Bytes::from_static(b"<html><body>Service temporarily unavailable</body></html>");
            Ok(respond(StatusCode::OK, "text/html", Answer::whole(page)))
        }
        Ending::Reset => {
            wire.reset();
            Err(Cut)
        }
        Ending::Cut => Err(Cut),
        Ending::Midway => Ok(respond(StatusCode::OK, "application/json", Answer::half(&text))),
        Ending::Hold => {
            wire.gone().await;
            Err(Cut)
        }
    }
}
