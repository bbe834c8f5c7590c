//! Who may look and who may act.
//!
//! With a token set, nothing under `/api` is answered without one. Without any, the server listens on loopback only (the
//! configuration sees to that), and the rest of this module keeps web pages in a browser of the same machine out.

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

use super::{ApiError, HttpState};

/// The bearer tokens, kept as digests: comparing them takes the same time wherever they differ.
#[derive(Clone, Default)]
pub struct Tokens {
    admin: Option<[u8; 32]>,
    readonly: Option<[u8; 32]>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens(admin: {}, readonly: {})", self.admin.is_some(), self.readonly.is_some())
    }
}

impl Tokens {
    /// From the settings.
    pub fn new(admin: Option<&SecretString>, readonly: Option<&SecretString>) -> Self {
        let digest = |token: &SecretString| digest(token.expose_secret());
        Self {
            admin: admin.map(digest),
            readonly: readonly.map(digest),
        }
    }

    fn any(&self) -> bool {
        self.admin.is_some() || self.readonly.is_some()
    }

    fn check(&self, headers: &HeaderMap, acts: bool) -> Result<(), ApiError> {
        if !self.any() {
            return Ok(());
        }
        let token = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| digest(token.trim()))
            .ok_or(ApiError::Unauthorized)?;
        let is = |expected: Option<[u8; 32]>| expected.is_some_and(|expected| expected.ct_eq(&token).into());
        if is(self.admin) {
            Ok(())
        } else if is(self.readonly) {
            if acts {
                Err(ApiError::Forbidden("this token may only look"))
            } else {
                Ok(())
            }
        } else {
            Err(ApiError::Unauthorized)
        }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Lets a request of the API through, or not.
pub(super) async fn guard(State(state): State<HttpState>, request: Request, next: Next) -> Result<Response, ApiError> {
    let acts = !matches!(*request.method(), Method::GET | Method::HEAD);
    let headers = request.headers();
    if acts && is_cross_site(headers) {
        return Err(ApiError::Forbidden("requests from another site are refused"));
    }
    if !state.tokens.any() && !names_loopback(headers) {
        // A page whose name was made to resolve to 127.0.0.1 is of the same origin to the browser, but not to us.
        return Err(ApiError::Forbidden("without a token only requests to a loopback host name are answered"));
    }
    state.tokens.check(headers, acts)?;
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
    let Some(origin) = headers.get(ORIGIN) else { return false };
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
    name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
