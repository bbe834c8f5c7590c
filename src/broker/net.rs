//! The network as lapin sees it: tokio's, but what is read from a connection is made readable first.

use std::{
    future::Future,
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures::{
    Stream,
    io::{AsyncRead, AsyncWrite},
};
use lapin::AsyncTcpStream;

use super::{legible::Legible, link::FRAME_MAX};

/// A connection, plain or TLS, that can be read.
pub(super) type LegibleStream = Legible<AsyncTcpStream<<Tokio as Reactor>::TcpStream>>;

/// The runtime that lapin's connections use.
pub(super) fn runtime() -> Runtime<RuntimeParts<Tokio, LegibleNet>> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), LegibleNet(tokio)))
}

/// Tokio's reactor with another type of stream.
#[derive(Debug, Clone)]
pub(super) struct LegibleNet(Tokio);

impl Reactor for LegibleNet {
    type TcpStream = LegibleStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// The trait's bound on `H` has no public name, so no other crate can pass a handle on; and lapin registers none.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<LegibleStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(addr);
        async move { Ok(Legible::new(AsyncTcpStream::Plain(connecting.await?), FRAME_MAX)) }
    }
}
