//! Which app is called, where, and within which bounds? Checked once, when a client is made.

use std::{fmt, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use crate::domain::{AccountId, AppName, SdkAppId};

/// An app of the IM service, as the configuration names it.
#[derive(Clone)]
pub struct ImApp {
    /// The name in the configuration.
    pub name: AppName,
    /// The app's number.
    pub sdk_app_id: SdkAppId,
    /// An administrator account of the app, in whose name every call is made.
    pub admin: AccountId,
    /// Scheme, host and, if need be, a path before `/v4`. `http://` is for loopback hosts only.
    pub base_url: Url,
    /// The key from which `UserSigs` are signed. A later key is given to [`super::ImClient::set_secret`].
    pub secret: SecretString,
}

impl fmt::Debug for ImApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImApp")
            .field("name", &self.name)
            .field("sdk_app_id", &self.sdk_app_id)
            .field("admin", &self.admin)
            .field("base_url", &format_args!("{}", self.host()))
            .field("secret", &"[redacted]")
            .finish()
    }
}

impl ImApp {
    /// Scheme, host and port: the address without anything that may be secret.
    pub fn host(&self) -> String {
        self.base_url.origin().ascii_serialization()
    }
}

/// The bounds of a client's calls.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The most time for a connection, TLS included. Default 2 s.
    pub connect_timeout: Duration,
    /// The most time for a whole call, connecting included. Default 6 s: twice the 3 s that the service gives itself.
    pub total_timeout: Duration,
    /// How long a UserSig is valid after it was signed. Default 30 s, a quarter of the 120 s for which the service
    /// remembers what it accepted: in the first 85 of them a repeat may be made that ends with its signature, however long
    /// it is frozen, before the service has forgotten the first. Clocks may differ by it.
    pub usersig_lifetime: Duration,
    /// The most connections that are kept open without a call. Default 256: more than the calls in flight that 200
    /// calls a second need at a second of latency.
    pub max_idle_per_host: usize,
    /// How long a connection is kept open without a call. Default 15 s: front ends close idle connections after a
    /// time of their own (20 to 75 s are usual), and a call that meets such a close half-way is in doubt.
    pub pool_idle_timeout: Duration,
    /// Whether a call whose UserSig was refused is repeated at once with a new one. Default true. Such a repeat is an
    /// HTTP call more than the caller asked for; who counts each call against a budget sets it to false and gets the
    /// class [`crate::domain::ErrorClass::Transient`] instead while a newer UserSig is worth a try.
    pub repeat_when_signed_anew: bool,
    /// Certificates to trust besides the platform's, as PEM (any number in one text).
    pub extra_ca_pem: Option<Vec<u8>>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            total_timeout: Duration::from_secs(6),
            usersig_lifetime: Duration::from_secs(30),
            max_idle_per_host: 256,
            pool_idle_timeout: Duration::from_secs(15),
            repeat_when_signed_anew: true,
            extra_ca_pem: None,
        }
    }
}

/// The shortest lifetime of a UserSig: a quarter of it, the time between two signatures, is then a whole second.
pub const MIN_USERSIG_LIFETIME: Duration = Duration::from_secs(4);
/// The longest (im-api: at most 50 years).
pub const MAX_USERSIG_LIFETIME: Duration = Duration::from_hours(50 * 365 * 24);

/// Why a client can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ImSetupError {
    /// A UserSig, and with it the app, would go over the network in the clear.
    #[error("the base URL {url} is not https: http is for loopback hosts only")]
    Insecure {
        /// Scheme, host and port.
        url: String,
    },
    /// Something that is no base URL.
    #[error("the base URL {url} must be https:// and a host, without user, password, query or fragment")]
    BaseUrl {
        /// Scheme, host and port.
        url: String,
    },
    /// There is no secret.
    #[error("the app's secret key is empty")]
    EmptySecret,
    /// The lifetime is out of its range.
    #[error("usersig_lifetime is {0:?}: it must be between 4 seconds and 50 years")]
    UserSigLifetime(Duration),
    /// A time-out is 0.
    #[error("{0} is 0: no call could succeed")]
    ZeroTimeout(&'static str),
    /// The extra certificates can't be read.
    #[error("the extra CA certificates are not PEM")]
    ExtraCa(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The HTTP client can't be built, for instance since the platform has no certificates.
    #[error("build the HTTP client: check the platform's CA certificates")]
    HttpClient(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Checks everything that can be checked without a call.
pub(super) fn check(app: &ImApp, options: &ClientOptions) -> Result<(), ImSetupError> {
    let url = &app.base_url;
    let bare =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    match url.scheme() {
        "https" if bare && url.has_host() => {}
        "http" if bare && is_loopback(url) => {}
        "http" if bare => return Err(ImSetupError::Insecure { url: app.host() }),
        _ => return Err(ImSetupError::BaseUrl { url: app.host() }),
    }
    check_secret(&app.secret)?;
    if !(MIN_USERSIG_LIFETIME..=MAX_USERSIG_LIFETIME).contains(&options.usersig_lifetime) {
        return Err(ImSetupError::UserSigLifetime(options.usersig_lifetime));
    }
    for (name, value) in [
        ("connect_timeout", options.connect_timeout),
        ("total_timeout", options.total_timeout),
    ] {
        if value.is_zero() {
            return Err(ImSetupError::ZeroTimeout(name));
        }
    }
    Ok(())
}

/// Any secret that isn't empty is accepted.
pub(super) fn check_secret(secret: &SecretString) -> Result<(), ImSetupError> {
    if secret.expose_secret().is_empty() {
        return Err(ImSetupError::EmptySecret);
    }
    Ok(())
}

/// Whether a URL's host can only be this machine. A name is taken for one only if it is reserved for it (RFC 6761).
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::im) fn app(base_url: &str) -> ImApp {
        ImApp {
            name: AppName::default_app(),
            sdk_app_id: SdkAppId(1_400_000_000),
            admin: AccountId::parse("administrator").unwrap(),
            base_url: base_url.parse().unwrap(),
            secret: "marked-secret-key".into(),
        }
    }

    fn checked(base_url: &str) -> Result<(), ImSetupError> {
        check(&app(base_url), &ClientOptions::default())
    }

    #[test]
    fn plain_http_is_for_loopback_hosts_only() {
        for url in [
            "https://console.tim.qq.com",
            "https://proxy.example/im/",
            "http://127.0.0.1:8081",
            "http://127.9.9.9",
            "http://localhost:1",
            "http://im.localhost",
            "http://[::1]:1",
            "http://[::ffff:127.0.0.1]:1",
        ] {
            assert!(checked(url).is_ok(), "{url}");
        }
        for url in [
            "http://console.tim.qq.com",
            "http://10.0.0.1",
            "http://localhost.example",
            "http://[2001:db8::1]",
        ] {
            assert!(matches!(checked(url), Err(ImSetupError::Insecure { .. })), "{url}");
        }
    }

    #[test]
    fn a_base_url_is_an_address_and_nothing_more() {
        for url in [
            "ftp://127.0.0.1",
            "https://user:hidden-password@host.example",
            "https://host.example/?usersig=hidden",
            "data:text/plain,hidden",
        ] {
            let error = checked(url).unwrap_err();
            assert!(matches!(error, ImSetupError::BaseUrl { .. }), "{url}");
            assert!(!format!("{error} {error:?} {:?}", app(url)).contains("hidden"));
        }
    }

    #[test]
    fn bounds_that_no_call_could_keep_are_refused() {
        let mut nameless = app("http://127.0.0.1");
        nameless.secret = "".into();
        assert!(matches!(
            check(&nameless, &ClientOptions::default()),
            Err(ImSetupError::EmptySecret)
        ));
        for lifetime in [Duration::from_secs(3), MAX_USERSIG_LIFETIME + Duration::from_secs(1)] {
            let options = ClientOptions {
                usersig_lifetime: lifetime,
                ..ClientOptions::default()
            };
            assert!(matches!(
                check(&app("http://127.0.0.1"), &options),
                Err(ImSetupError::UserSigLifetime(_))
            ));
        }
        let options = ClientOptions {
            total_timeout: Duration::ZERO,
            ..ClientOptions::default()
        };
        assert!(matches!(
            check(&app("http://127.0.0.1"), &options),
            Err(ImSetupError::ZeroTimeout("total_timeout"))
        ));
    }

    #[test]
    fn an_app_prints_without_its_secret() {
        let printed = format!("{:?}", app("http://127.0.0.1:9"));
        assert!(!printed.contains("marked-secret-key"), "{printed}");
        assert!(printed.contains("http://127.0.0.1:9"));
    }
}
