//! Is the link there? A TCP relay on loopback between a process and a service, which a test cuts, stalls and restores.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What the link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Carries every byte.
    Open,
    /// Connections end at once, new ones too.
    Cut,
    /// Connections stay and new ones are accepted, but no byte passes.
    Stalled,
}

/// A relay; ends, with its connections, when it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    link: watch::Sender<Link>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// A relay to `target` (`host:port`), open, on a free loopback port.
    pub(crate) async fn start(target: impl Into<String>) -> Self {
        let target = target.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, state) = watch::channel(Link::Open);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target.clone(), state.clone()));
            }
        });
        Self {
            address,
            link,
            accepting,
        }
    }

    /// A relay to the service of a URL that names its port.
    pub(crate) async fn in_front_of(url: &str) -> Self {
        let (_, rest) = url.split_once("://").expect("a URL");
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        Self::start(authority.rsplit('@').next().unwrap_or_default()).await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same URL, by way of this relay.
    pub(crate) fn route(&self, url: &str) -> String {
        // Not by a parser: `%2f`, a vhost, must stay as it is.
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let account = authority
            .rsplit_once('@')
            .map_or(String::new(), |(account, _)| format!("{account}@"));
        format!("{scheme}://{account}{}{path}", self.address)
    }

    /// Ends every connection and each that comes, until [`Relay::restore`].
    pub(crate) fn cut(&self) {
        self.link.send_replace(Link::Cut);
    }

    /// Holds every byte back, in both directions, until [`Relay::restore`]: a network that drops packets.
    pub(crate) fn stall(&self) {
        self.link.send_replace(Link::Stalled);
    }

    /// Carries again, also what was held back.
    pub(crate) fn restore(&self) {
        self.link.send_replace(Link::Open);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Connections end with the sender of their state.
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, target: String, state: watch::Receiver<Link>) {
    if *state.borrow() == Link::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = pump(client_read, server_write, state.clone()) => {}
        () = pump(server_read, client_write, state.clone()) => {}
        () = cut(state) => {}
    }
}

/// Until the link is cut or the relay is gone.
async fn cut(mut state: watch::Receiver<Link>) {
    // An error means that the relay was dropped: the connection's end, too.
    drop(state.wait_for(|link| *link == Link::Cut).await);
}

/// One direction, until either side closes.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<Link>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else {
            return;
        };
        if state.wait_for(|link| *link == Link::Open).await.is_err() || count == 0 {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
