//! Is the link there? A TCP relay on loopback between a process and a service, which a test cuts, stalls and restores.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

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
    /// Connections end at once, and new ones are refused: nobody listens.
    Refused,
}

/// Requests behind which a connection goes deaf.
type Losing = Arc<Mutex<Vec<String>>>;

/// A relay; ends, with its connections, when it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    link: watch::Sender<Link>,
    losing: Losing,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// A relay to `target` (`host:port`), open, on a free loopback port.
    pub(crate) async fn start(target: impl Into<String>) -> Self {
        let target = target.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, state) = watch::channel(Link::Open);
        let losing = Losing::default();
        let accepting = tokio::spawn(accept(listener, target, state, Arc::clone(&losing)));
        Self {
            address,
            link,
            losing,
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

    /// From now on, a connection on which the client has sent these, one after the other, hears nothing any more: what it
    /// asked for last is done, and it doesn't learn of it.
    pub(crate) fn lose_answers_to(&self, requests: &[&str]) {
        *self.losing.lock().unwrap() = requests.iter().map(|&request| request.into()).collect();
    }

    /// Ends every connection and listens no more, until [`Relay::restore`].
    pub(crate) fn refuse(&self) {
        self.link.send_replace(Link::Refused);
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

/// Accepts until the relay is gone; while connections are to be refused there is no listener.
async fn accept(listener: TcpListener, target: String, mut state: watch::Receiver<Link>, losing: Losing) {
    let address = listener.local_addr().unwrap();
    let mut listening = Some(listener);
    loop {
        if listening.is_none() {
            if state.wait_for(|link| *link != Link::Refused).await.is_err() {
                return;
            }
            // Somebody else's connection may have the port for a moment, as its own.
            match TcpListener::bind(address).await {
                Ok(listener) => listening = Some(listener),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
        let Some(listener) = &listening else { continue };
        let accepted = tokio::select! {
            accepted = listener.accept() => Some(accepted),
            refused = state.wait_for(|link| *link == Link::Refused) => {
                if refused.is_err() {
                    return;
                }
                None
            }
        };
        match accepted {
            Some(Ok((client, _))) => drop(tokio::spawn(carry(
                client,
                target.clone(),
                state.clone(),
                Arc::clone(&losing),
            ))),
            Some(Err(_)) => return,
            None => listening = None,
        }
    }
}

async fn carry(client: TcpStream, target: String, state: watch::Receiver<Link>, losing: Losing) {
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
    let deaf = AtomicBool::new(false);
    let mut seen = 0;
    let asks = |bytes: &[u8]| {
        let losing = losing.lock().unwrap();
        while losing
            .get(seen)
            .is_some_and(|request| contains(bytes, request.as_bytes()))
        {
            seen += 1;
        }
        if seen > 0 && seen == losing.len() {
            deaf.store(true, Ordering::SeqCst);
        }
        true
    };
    let hears = |_: &[u8]| !deaf.load(Ordering::SeqCst);
    tokio::select! {
        () = pump(client_read, server_write, state.clone(), asks) => {}
        () = pump(server_read, client_write, state.clone(), hears) => {}
        () = cut(state) => {}
    }
}

/// Until the link is cut or the relay is gone.
async fn cut(mut state: watch::Receiver<Link>) {
    // An error means that the relay was dropped: the connection's end, too.
    drop(state.wait_for(|link| matches!(link, Link::Cut | Link::Refused)).await);
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// One direction, until either side closes. What doesn't pass is lost.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<Link>,
    mut passes: impl FnMut(&[u8]) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else {
            return;
        };
        if state.wait_for(|link| *link == Link::Open).await.is_err() || count == 0 {
            return;
        }
        if !passes(&buffer[..count]) {
            continue;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
