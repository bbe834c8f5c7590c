//! What can go wrong with the broker. No text here holds the URL: it has the password in it.

/// Why the broker layer can't be set up at all: a setting is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerSetupError {
    /// Not an AMQP URL. The URL isn't quoted, since it holds the password.
    #[error("the AMQP URL can't be read: use amqp://user:password@host:5672/%2f or amqps://…")]
    Url,
    /// The nodes of a cluster share logins and virtual hosts.
    #[error("the AMQP URLs must all have the same user and virtual host")]
    DifferentUrls,
    /// The namespace, or an app's name in it, makes no queue name.
    #[error("the namespace or an app makes no queue name: {0}")]
    Namespace(String),
    /// The certificates are no PEM text.
    #[error("the extra CA certificates are not PEM text")]
    ExtraCa,
    /// The file of the certificates can't be used.
    #[error("read the certificates of amqp.ca_file, {path}: {reason}")]
    CaFile {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
}

/// Why something that needs the broker didn't work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// No connection, or no login.
    #[error("connect to RabbitMQ at {address}: {source}")]
    Connect {
        /// `host:port`.
        address: String,
        /// What lapin says.
        #[source]
        source: lapin::Error,
    },
    /// What the next connection needs can't be read any more.
    #[error(transparent)]
    Setup(#[from] BrokerSetupError),
    /// A connection without a usable channel.
    #[error("open a channel: {source}")]
    Channel {
        /// What lapin says.
        #[source]
        source: lapin::Error,
    },
    /// Something of the topology is missing and can't be made.
    #[error("declare {what}: {source}")]
    Declare {
        /// Which exchange, queue or binding.
        what: String,
        /// What lapin says.
        #[source]
        source: lapin::Error,
    },
    /// A queue that can't be read.
    #[error("read queue {queue:?}: {source}")]
    Read {
        /// The queue.
        queue: String,
        /// What lapin says.
        #[source]
        source: lapin::Error,
    },
    /// The broker didn't answer in time.
    #[error("{what}: no answer in time")]
    Timeout {
        /// What was asked.
        what: String,
    },
    /// There is no connection at the moment.
    #[error("RabbitMQ is away: {0}")]
    Away(String),
    /// This process is shutting down.
    #[error("shutting down")]
    Stopping,
}
