//! A TCP relay that a test controls: it can cut, freeze and refuse what goes through it.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::{broadcast, watch},
    task::JoinHandle,
};

/// A relay to one server. Ends with its handle.
pub(crate) struct Relay {
    address: SocketAddr,
    cut: broadcast::Sender<()>,
    frozen: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Listens on a free port of the loopback interface and forwards to `upstream`.
    pub(crate) async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, _) = broadcast::channel(1);
        let (frozen, refusing) = (watch::Sender::new(false), watch::Sender::new(false));
        let accepting = tokio::spawn({
            let (cut, frozen, refusing) = (cut.clone(), frozen.subscribe(), refusing.subscribe());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if *refusing.borrow() {
                        continue;
                    }
                    let Ok(server) = TcpStream::connect(&upstream).await else {
                        continue;
                    };
                    let (mut cut, frozen) = (cut.subscribe(), frozen.clone());
                    tokio::spawn(async move {
                        let (client_in, client_out) = client.into_split();
                        let (server_in, server_out) = server.into_split();
                        tokio::select! {
                            () = copy(client_in, server_out, frozen.clone()) => {}
                            () = copy(server_in, client_out, frozen) => {}
                            _ = cut.recv() => {}
                        }
                    });
                }
            }
        });
        Self {
            address,
            cut,
            frozen,
            refusing,
            accepting,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection that goes through it now.
    pub(crate) fn cut(&self) {
        // Without a connection there is nobody to hear it.
        self.cut.send(()).ok();
    }

    /// Passes nothing on, in neither direction, without ending anything; or goes on.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Ends new connections at once; or lets them in again.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.refusing.send_replace(refusing);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn copy(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut frozen: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if frozen.wait_for(|frozen| !frozen).await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
