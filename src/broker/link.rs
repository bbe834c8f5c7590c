//! One connection to the broker: opened within a deadline, watched, and ended for certain.
//!
//! lapin gives a connection an I/O thread of its own that a stuck handshake or a dead peer can keep for ever. So the
//! socket is opened here and a second handle to it kept: shutting it down ends the thread, whatever it waits for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    AsyncTcpStream, Channel, Connection, ConnectionProperties, ErrorKind, Event, tcp::OwnedTLSConfig, uri::AMQPUri,
};
use parking_lot::{Mutex, RwLock};
use secrecy::{ExposeSecret, SecretString};
use socket2::{SockRef, Socket};
use tokio::{sync::watch, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

use super::{BrokerError, BrokerOptions, BrokerSetupError, legible::Legible, net};
use crate::domain::split_urls;

/// How long a channel or connection may take to close in good order.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest frame that this side offers, in bytes. lapin keeps 32 frames for each direction of a connection and goes round in
/// them: with RabbitMQ's 128 KiB two connections held 16 MiB for a few KiB under way. Bodies are cut to frames; properties
/// must fit one. `frame_max` in the URL says otherwise.
pub(super) const FRAME_MAX: u32 = 32 << 10;
/// How often a connection's state is looked at besides its events, in case an event was lost.
const STATE_CHECK: Duration = Duration::from_secs(1);

/// Where to connect and how: the URLs taken apart and checked.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// One for each node, at least one; replaced when the login's password, or a node, is.
    uris: Arc<RwLock<Arc<[AMQPUri]>>>,
    user: Arc<str>,
    /// Whose turn it is.
    turn: Arc<AtomicUsize>,
    options: Arc<BrokerOptions>,
}

impl Endpoint {
    pub(super) fn new(options: &Arc<BrokerOptions>) -> Result<Self, BrokerSetupError> {
        let uris = parse_all(&options.url, options.heartbeat_secs)?;
        let endpoint = Self {
            // Not everybody begins with the same node.
            turn: Arc::new(AtomicUsize::new(rand::random_range(0..uris.len()))),
            user: uris[0].authority.userinfo.username.as_str().into(),
            uris: Arc::new(RwLock::new(uris)),
            options: Arc::clone(options),
        };
        // What is wrong with it stops the start, rather than each attempt.
        endpoint.tls()?;
        Ok(endpoint)
    }

    /// The login, which the broker compares a message's `user_id` with.
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// Takes another URL for the connections to come: another password or other nodes, the same user and virtual host.
    pub(super) fn set_url(&self, url: &SecretString) -> Result<(), BrokerSetupError> {
        let uris = parse_all(url, self.options.heartbeat_secs)?;
        let mut current = self.uris.write();
        if uris[0].authority.userinfo.username != *self.user || uris[0].vhost != current[0].vhost {
            return Err(BrokerSetupError::DifferentUrls);
        }
        *current = uris;
        Ok(())
    }

    /// Where the next attempt goes: each node in its turn.
    fn next(&self) -> AMQPUri {
        let uris = self.uris.read();
        uris[self.turn.fetch_add(1, Ordering::Relaxed) % uris.len()].clone()
    }

    /// What is trusted besides the system's certificates, as the files have it now.
    fn tls(&self) -> Result<OwnedTLSConfig, BrokerSetupError> {
        let text = |pem: Vec<u8>| String::from_utf8(pem).map_err(|_| BrokerSetupError::ExtraCa);
        let mut cert_chain = self.options.extra_ca.clone().map(text).transpose()?;
        if let Some(path) = &self.options.ca_file {
            let failed = |reason: String| BrokerSetupError::CaFile {
                path: path.display().to_string(),
                reason,
            };
            // A few kilobytes, read at a start and at a reconnect only.
            let pem = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
            if !pem.contains("-----BEGIN CERTIFICATE-----") {
                return Err(failed("it holds no certificate in PEM".to_owned()));
            }
            cert_chain = Some(cert_chain.map_or_else(|| pem.clone(), |own| format!("{own}\n{pem}")));
        }
        Ok(OwnedTLSConfig {
            identity: None,
            cert_chain,
        })
    }
}

/// The URL of each node.
fn parse_all(url: &SecretString, heartbeat_secs: u16) -> Result<Arc<[AMQPUri]>, BrokerSetupError> {
    let uris = split_urls(url.expose_secret())
        .into_iter()
        .map(|url| parse(url, heartbeat_secs))
        .collect::<Result<Arc<[AMQPUri]>, _>>()?;
    let same = |uri: &AMQPUri| {
        uri.vhost == uris[0].vhost && uri.authority.userinfo.username == uris[0].authority.userinfo.username
    };
    if uris.iter().all(same) {
        Ok(uris)
    } else {
        Err(BrokerSetupError::DifferentUrls)
    }
}

fn parse(url: &str, heartbeat_secs: u16) -> Result<AMQPUri, BrokerSetupError> {
    // The parser's own message can quote the URL, and with it the password.
    let mut uri: AMQPUri = url.parse().map_err(|_| BrokerSetupError::Url)?;
    // lapin's parser knows host names only and takes an IPv6 address for `localhost`.
    if let Some(url::Host::Ipv6(address)) = url::Url::parse(url).ok().as_ref().and_then(url::Url::host) {
        uri.authority.host = address.to_string();
    }
    if uri.vhost.is_empty() {
        uri.vhost = String::from("/");
    }
    uri.query.heartbeat = Some(heartbeat_secs);
    uri.query.frame_max.get_or_insert(FRAME_MAX);
    Ok(uri)
}

/// `host:port`, for errors and logs; never the whole URL.
fn address(uri: &AMQPUri) -> String {
    format!("{}:{}", uri.authority.host, uri.authority.port)
}

/// What is known of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkState {
    /// Why it is gone, once it is.
    pub(super) lost: Option<String>,
    /// Why the broker takes nothing from it, while it doesn't.
    pub(super) blocked: Option<String>,
}

/// An open connection. Dropping it cuts its socket.
pub(super) struct Link {
    address: String,
    connection: Connection,
    state: watch::Receiver<LinkState>,
    watcher: JoinHandle<()>,
    socket: CutOnDrop,
}

impl Link {
    /// Connects for a purpose, `consume` or `publish`, within the deadline of an attempt.
    pub(super) async fn open(
        endpoint: &Endpoint,
        purpose: &str,
        stop: &CancellationToken,
    ) -> Result<Self, BrokerError> {
        let options = &endpoint.options;
        let uri = endpoint.next();
        let tls = endpoint.tls()?;
        let name = format!("{} {purpose} {}", options.program, options.instance);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let socket = SharedSocket::default();
        let cut = CutOnDrop(socket.clone());
        // The I/O thread is told to give up by its own token: it can't be by dropping the future that waits for it.
        let abandon = CancellationToken::new();
        let _abandon_on_return = abandon.clone().drop_guard();
        let tokio = async_rs::Runtime::tokio_current();
        let connect = {
            let (socket, stop) = (socket.clone(), stop.clone());
            let abandon = abandon.clone();
            let (deadline, user_timeout) = (options.attempt_timeout, options.stall_timeout);
            async move |uri: AMQPUri, _| {
                let frame_max = uri.query.frame_max.unwrap_or(FRAME_MAX);
                let open = async {
                    let mut stream = Err(std::io::Error::from(std::io::ErrorKind::AddrNotAvailable));
                    for address in tokio::net::lookup_host((uri.authority.host.as_str(), uri.authority.port)).await? {
                        stream = AsyncTcpStream::connect(&tokio, address).await;
                        if stream.is_ok() {
                            break;
                        }
                    }
                    let stream = stream?;
                    if let AsyncTcpStream::Plain(tcp) = &stream {
                        let tcp = SockRef::from(tcp.get_ref());
                        tcp.set_tcp_user_timeout(Some(user_timeout))?;
                        socket.keep(tcp.try_clone()?);
                    }
                    match uri.scheme {
                        lapin::uri::AMQPScheme::AMQP => Ok(stream),
                        lapin::uri::AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, tls.as_ref()).await,
                    }
                };
                let given_up = || lapin::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
                tokio::select! {
                    opened = time::timeout(deadline, open) => match opened {
                        Ok(Ok(stream)) => Ok(AsyncTcpStream::Plain(Legible::new(stream, frame_max))),
                        Ok(Err(error)) => Err(error.into()),
                        Err(_) => Err(given_up()),
                    },
                    () = stop.cancelled() => Err(given_up()),
                    () = abandon.cancelled() => Err(given_up()),
                }
            }
        };
        let connecting = Connection::connector(uri.clone(), net::runtime(), connect, properties);
        let connection = tokio::select! {
            connected = time::timeout(options.attempt_timeout, connecting) => match connected {
                Ok(connection) => connection.map_err(|source| connect_error(&uri, source))?,
                Err(_) => return Err(BrokerError::Timeout { what: format!("connect to {}", address(&uri)) }),
            },
            () = stop.cancelled() => return Err(BrokerError::Stopping),
        };
        let (sender, state) = watch::channel(LinkState::default());
        let watcher = tokio::spawn(watch_events(
            connection.events_listener(),
            connection.status().clone(),
            sender,
        ));
        Ok(Self {
            address: address(&uri),
            connection,
            state,
            watcher,
            socket: cut,
        })
    }

    /// The node's `host:port`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// A new channel.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        match time::timeout(CLOSE_TIMEOUT * 2, self.connection.create_channel()).await {
            Ok(channel) => channel.map_err(|source| BrokerError::Channel { source }),
            Err(_) => Err(BrokerError::Timeout {
                what: "open a channel".into(),
            }),
        }
    }

    /// A new channel with publisher confirms.
    pub(super) async fn confirm_channel(&self) -> Result<Channel, BrokerError> {
        let channel = self.channel().await?;
        let select = channel.confirm_select(lapin::options::ConfirmSelectOptions::default());
        match time::timeout(CLOSE_TIMEOUT * 2, select).await {
            Ok(selected) => selected
                .map_err(|source| BrokerError::Channel { source })
                .map(|()| channel),
            Err(_) => Err(BrokerError::Timeout {
                what: "turn publisher confirms on".into(),
            }),
        }
    }

    /// Closes a channel in good order; what it still has unsettled goes back to the queue.
    pub(super) async fn close_channel(&self, channel: &Channel) {
        close_channel(channel).await;
    }

    /// The connection's state, to look at and to wait on.
    pub(super) fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// The largest frame that both sides agreed on, in bytes.
    pub(super) fn frame_max(&self) -> u32 {
        self.connection.configuration().frame_max()
    }

    /// Why the broker takes nothing from this connection, if so.
    pub(super) fn blocked(&self) -> Option<String> {
        self.state.borrow().blocked.clone()
    }

    /// Waits until the connection is gone and says why.
    pub(super) async fn lost(&self) -> String {
        let mut state = self.state();
        match state.wait_for(|state| state.lost.is_some()).await {
            Ok(state) => state.lost.clone().unwrap_or_default(),
            Err(_) => "its watcher ended".to_owned(),
        }
    }

    /// Closes the connection in good order; after two seconds the socket is cut.
    pub(super) async fn close(&self) {
        if self.connection.status().connected() {
            // An answer that doesn't come is no error here: the socket is cut anyway.
            drop(time::timeout(CLOSE_TIMEOUT, self.connection.close(200, "OK".into())).await);
        }
        self.cut();
    }

    /// Ends the connection at once, whatever it waits for.
    pub(super) fn cut(&self) {
        self.socket.cut();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Closes a channel, waiting at most [`CLOSE_TIMEOUT`]; a channel that is gone already is as good.
pub(super) async fn close_channel(channel: &Channel) {
    if channel.status().connected() {
        drop(time::timeout(CLOSE_TIMEOUT, channel.close(200, "OK".into())).await);
    }
}

fn connect_error(uri: &AMQPUri, source: lapin::Error) -> BrokerError {
    BrokerError::Connect {
        address: address(uri),
        source,
    }
}

async fn watch_events(
    events: impl futures::Stream<Item = Event>,
    status: lapin::ConnectionStatus,
    state: watch::Sender<LinkState>,
) {
    let mut events = std::pin::pin!(events);
    let mut check = time::interval(STATE_CHECK);
    let mut why = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => state.send_modify(|state| state.blocked = Some(reason)),
                Some(Event::ConnectionUnblocked) => state.send_modify(|state| state.blocked = None),
                // Also a single channel's end; then the connection stays, and whoever uses the channel sees it there.
                Some(Event::Error(error)) => why = Some(error.to_string()),
                Some(_) => {}
                None => why = Some("its event stream ended".to_owned()),
            },
            _ = check.tick() => {}
        }
        if !status.connected() {
            let why = why.unwrap_or_else(|| "it was closed".to_owned());
            state.send_modify(|state| state.lost = Some(why));
            return;
        }
    }
}

/// A second handle to a connection's socket.
#[derive(Clone, Default)]
struct SharedSocket(Arc<Mutex<Option<Socket>>>);

impl SharedSocket {
    fn keep(&self, socket: Socket) {
        *self.0.lock() = Some(socket);
    }
}

/// Cuts the socket, so that lapin's I/O thread ends, wherever the attempt or the connection is given up.
struct CutOnDrop(SharedSocket);

impl CutOnDrop {
    fn cut(&self) {
        if let Some(socket) = self.0.0.lock().take() {
            // An error says that it is gone already, which is what is wanted.
            drop(socket.shutdown(std::net::Shutdown::Both));
        }
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Whether lapin could not read what the broker sent: a message whose properties it can't parse is delivered again and
/// again, so this is told apart from a connection that was merely lost.
pub(super) fn is_parse_error(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ParsingError(_))
}
