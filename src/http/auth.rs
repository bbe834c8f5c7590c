//! Who may look and who may act.
//!
//! With a token set, nothing under `/api` is answered without one, or a session that was signed in with one. Without any, the
//! server listens on loopback only (the configuration sees to that), and the rest of this module keeps web pages in a browser
//! of the same machine out.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, Method,
        header::{AUTHORIZATION, HOST, ORIGIN},
    },
    middleware::Next,
    response::Response,
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    ApiError, HttpState,
    session::{SessionKey, actor},
};

/// The header without which a session acts on nothing: no form of another site can send it.
pub(super) const DASHBOARD_HEADER: &str = "x-im-dispatcher";
/// The header by which a bearer's name comes into the audit log.
const ACTOR_HEADER: &str = "x-im-actor";

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Look and act.
    Operator,
    /// Look.
    ReadOnly,
}

/// How somebody was recognized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// By a cookie.
    Session,
    /// By a bearer token.
    Bearer,
    /// Not at all: no token is set.
    Open,
}

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    /// What he may do.
    pub(super) role: Role,
    /// How he was recognized.
    pub(super) via: Via,
    /// The name that he gave.
    pub(super) actor: Option<String>,
    /// Where he is.
    pub(super) address: Option<String>,
}

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The bearer tokens, kept as digests: comparing them takes the same time wherever they differ. All clones are one: what is
/// set later holds for each.
#[derive(Clone, Default)]
pub struct Tokens(Arc<ArcSwap<Digests>>);

#[derive(Clone, Copy, Default)]
struct Digests {
    admin: Option<[u8; 32]>,
    readonly: Option<[u8; 32]>,
}

impl Digests {
    fn of(admin: Option<&SecretString>, readonly: Option<&SecretString>) -> Self {
        let of = |token: &SecretString| digest(token.expose_secret());
        Self {
            admin: admin.map(of),
            readonly: readonly.map(of),
        }
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Digests { admin, readonly } = **self.0.load();
        write!(
            f,
            "Tokens(admin: {}, readonly: {})",
            admin.is_some(),
            readonly.is_some()
        )
    }
}

impl Tokens {
    /// From the settings.
    pub fn new(admin: Option<&SecretString>, readonly: Option<&SecretString>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Digests::of(admin, readonly))))
    }

    /// Takes others from now on. Sessions that were signed in with a token that is gone end with it.
    pub fn set(&self, admin: Option<&SecretString>, readonly: Option<&SecretString>) {
        self.0.store(Arc::new(Digests::of(admin, readonly)));
    }

    /// Whether one is set.
    pub(super) fn any(&self) -> bool {
        let digests = self.0.load();
        digests.admin.is_some() || digests.readonly.is_some()
    }

    /// Each role that has a token.
    fn roles(&self) -> impl Iterator<Item = (Role, [u8; 32])> {
        let Digests { admin, readonly } = **self.0.load();
        let admin = admin.map(|digest| (Role::Operator, digest));
        admin.into_iter().chain(readonly.map(|digest| (Role::ReadOnly, digest)))
    }

    /// The keys of the sessions.
    pub(super) fn session_keys(&self) -> impl Iterator<Item = SessionKey> {
        self.roles().map(|(_, digest)| SessionKey::derive(&digest))
    }

    /// The role of a token, and the key of its sessions.
    pub(super) fn role_of(&self, token: &SecretString) -> Option<(Role, SessionKey)> {
        let given = digest(token.expose_secret().trim());
        self.roles()
            .find(|(_, digest)| digest.ct_eq(&given).into())
            .map(|(role, digest)| (role, SessionKey::derive(&digest)))
    }

    /// Who makes a request. A bearer token that is given counts, right or wrong; a session otherwise.
    pub(super) fn access(&self, headers: &HeaderMap) -> Result<Access, ApiError> {
        let named = headers.get(ACTOR_HEADER).and_then(|value| value.to_str().ok());
        let access = |role, via, actor| Access {
            role,
            via,
            actor,
            address: None,
        };
        if !self.any() {
            return Ok(access(Role::Operator, Via::Open, named.and_then(actor)));
        }
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if let Some((_, token)) = bearer {
            let (role, _) = self.role_of(&token.into()).ok_or(ApiError::Unauthorized)?;
            return Ok(access(role, Via::Bearer, named.and_then(actor)));
        }
        self.roles()
            .find_map(|(role, digest)| {
                let name = SessionKey::derive(&digest).session(headers)?;
                Some(access(role, Via::Session, actor(&name)))
            })
            .ok_or(ApiError::Unauthorized)
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Lets a request of the API through, or not; who makes it goes along.
pub(super) async fn guard(
    State(state): State<HttpState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let acts = !matches!(*request.method(), Method::GET | Method::HEAD);
    let headers = request.headers();
    let mut access = state.tokens.access(headers)?;
    if acts && access.role != Role::Operator {
        return Err(ApiError::Forbidden("this token may only look"));
    }
    if acts && access.via == Via::Session && !headers.contains_key(DASHBOARD_HEADER) {
        return Err(ApiError::Forbidden(
            "a session acts only with the header x-im-dispatcher",
        ));
    }
    access.address = request
        .extensions()
        .get::<Peer>()
        .map(|Peer(address)| address.ip().to_string());
    request.extensions_mut().insert(access);
    Ok(next.run(request).await)
}

/// Keeps pages of other sites out, signed in or not.
pub(super) async fn same_site(
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let acts = !matches!(*request.method(), Method::GET | Method::HEAD);
    let headers = request.headers();
    if acts && is_cross_site(headers) {
        return Err(ApiError::Forbidden("requests from another site are refused"));
    }
    if !state.tokens.any() && !names_loopback(headers) {
        // A page whose name was made to resolve to 127.0.0.1 is of the same origin to the browser, but not to us.
        return Err(ApiError::Forbidden(
            "without a token only requests to a loopback host name are answered",
        ));
    }
    Ok(next.run(request).await)
}
/// Whether a browser says that the request was made by a page of another origin. Other clients send neither header.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site")
        && !matches!(site, "same-origin" | "none")
    {
        return true;
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return false;
    };
    let origin_host = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .map(|(_, host)| host);
    origin_host.is_none() || origin_host != text(HOST.as_str())
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else {
        // HTTP/1.0, which no browser speaks.
        return true;
    };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
