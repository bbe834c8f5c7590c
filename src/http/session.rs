//! Signing in to the dashboard: a token is exchanged for a cookie that no script can read.
//!
//! The cookie holds the end of the session and the name that was given, signed with a key that derives from the token. So a
//! session outlives a worker, holds on every worker that has the token, and ends when the token is changed. A cookie of the
//! read-only role is signed by the read-only token's key alone: it says nothing about the other token.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use sha2::Sha256;
use std::{sync::LazyLock, time::Duration};
use tokio::sync::Semaphore;

use super::{
    ApiError, HttpState,
    auth::{Access, Role, Via},
    body::JsonBody,
};

/// How long a session lasts: a shift.
const LASTS: i64 = 12 * 3600;
/// The longest name for the audit log, in characters.
const LONGEST_NAME: usize = 64;
/// A wrong token is answered after that long, and only so many at a time: a dozen guesses a second at most.
const WRONG_PAUSE: Duration = Duration::from_millis(500);
static WRONG: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(6));

/// A role's key.
#[derive(Clone, Copy)]
pub(super) struct SessionKey([u8; 32]);

impl SessionKey {
    /// From the token's digest.
    pub(super) fn derive(token: &[u8; 32]) -> Self {
        Self(mac(token, b"im-dispatcher dashboard session"))
    }

    /// The cookie's name: workers of other settings on the same host have cookies of their own, since browsers send a
    /// host's cookies to each of its ports.
    fn cookie(&self) -> String {
        format!("im_dispatcher_{}", hex::encode(&mac(&self.0, b"name")[..4]))
    }

    fn seal(&self, until: i64, name: &str) -> String {
        let content = format!("{until}.{}", URL_SAFE_NO_PAD.encode(name));
        let mac = mac(&self.0, content.as_bytes());
        format!("{content}.{}", URL_SAFE_NO_PAD.encode(mac))
    }

    /// The name of a session that is valid at `now`.
    fn open(&self, value: &str, now: i64) -> Option<String> {
        let (content, given) = value.rsplit_once('.')?;
        let given = URL_SAFE_NO_PAD.decode(given).ok()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key");
        mac.update(content.as_bytes());
        mac.verify_slice(&given).ok()?;
        let (until, name) = content.split_once('.')?;
        if until.parse::<i64>().ok()? <= now {
            return None;
        }
        String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()
    }

    /// The name of the session that a request carries.
    pub(super) fn session(&self, headers: &HeaderMap) -> Option<String> {
        let name = self.cookie();
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(key, _)| *key == name)
            .find_map(|(_, value)| self.open(value, Utc::now().timestamp()))
    }
}

fn mac(key: &[u8], content: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(content);
    mac.finalize().into_bytes().into()
}

/// A name for the audit log: trimmed, cut, without control characters; `None` where nothing is left.
pub(super) fn actor(name: &str) -> Option<String> {
    let name: String = name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// What signs in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    #[serde(deserialize_with = "secret")]
    token: SecretString,
    #[serde(default)]
    name: String,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

/// `GET /api/session`: who the browser is, which nobody has to be to ask.
pub(super) async fn show(State(state): State<HttpState>, headers: HeaderMap) -> Response {
    let access = state.tokens.access(&headers).ok();
    let shown = json!({
        "role": access.as_ref().map(|access| access.role.as_str()),
        "name": access.as_ref().and_then(|access| access.actor.clone()),
        // Without a token there is nothing to sign in to or out of.
        "sign_in": state.tokens.any(),
    });
    Json(shown).into_response()
}

/// `POST /api/session`: a token for a cookie.
pub(super) async fn sign_in(
    State(state): State<HttpState>,
    headers: HeaderMap,
    address: Option<axum::Extension<super::auth::Peer>>,
    JsonBody(given): JsonBody<SignIn>,
) -> Result<Response, ApiError> {
    let Some((role, key)) = state.tokens.role_of(&given.token) else {
        // Who has the right token never waits.
        let Ok(_place) = WRONG.try_acquire() else {
            return Err(ApiError::TooMany("too many wrong tokens; wait a moment"));
        };
        tokio::time::sleep(WRONG_PAUSE).await;
        tracing::warn!("somebody tried to sign in to the dashboard with a wrong token");
        return Err(ApiError::WrongToken);
    };
    let name = actor(&given.name);
    let access = Access {
        role,
        via: Via::Session,
        actor: name.clone(),
        address: address.map(|axum::Extension(super::auth::Peer(address))| address.ip().to_string()),
    };
    // A database that is away keeps nobody out: signing in changes nothing.
    match access.begin(&state.store, "sign-in", role.as_str()).await {
        Ok(entry) => entry.end(Ok("signed in".to_owned())).await,
        Err(error) => tracing::warn!(%error, "a sign-in could not be noted in the audit log"),
    }
    let value = key.seal(Utc::now().timestamp() + LASTS, name.as_deref().unwrap_or_default());
    let shown = Json(json!({"role": role.as_str(), "name": name, "sign_in": true}));
    Ok((cookie(&headers, &key.cookie(), &value, LASTS)?, shown).into_response())
}

/// `DELETE /api/session`: the browser forgets its cookies.
pub(super) async fn sign_out(State(state): State<HttpState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    for key in state.tokens.session_keys() {
        for value in cookie(&headers, &key.cookie(), "", 0)?.values() {
            response.headers_mut().append(header::SET_COOKIE, value.clone());
        }
    }
    Ok(response)
}

fn cookie(headers: &HeaderMap, name: &str, value: &str, age: i64) -> Result<HeaderMap, ApiError> {
    // Behind a proxy that ends TLS; over plain HTTP on loopback browsers would refuse to store a Secure cookie.
    let https = headers
        .get("x-forwarded-proto")
        .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    let secure = if https { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
    let value = HeaderValue::from_str(&text).map_err(|_| ApiError::Internal)?;
    Ok(HeaderMap::from_iter([(header::SET_COOKIE, value)]))
}

impl Role {
    /// The word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::ReadOnly => "read-only",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_opened_by_its_own_key_until_its_end_and_unchanged() {
        let (key, other) = (SessionKey::derive(&[1; 32]), SessionKey::derive(&[2; 32]));
        let value = key.seal(1_000, "Ada; admin");
        assert_eq!(key.open(&value, 999).as_deref(), Some("Ada; admin"));
        assert_eq!(key.open(&value, 1_000), None);
        assert_eq!(other.open(&value, 999), None);
        assert_eq!(key.open(&value.replacen("1000", "9000", 1), 999), None);
        assert_eq!(key.open("", 999), None);
        let mut headers = HeaderMap::new();
        let later = key.seal(Utc::now().timestamp() + 60, "");
        let pair = format!("a=b; {}={later}", key.cookie());
        headers.insert(header::COOKIE, pair.parse().unwrap());
        assert_eq!(key.session(&headers).as_deref(), Some(""));
        assert_eq!(other.session(&headers), None);
    }

    #[test]
    fn a_name_is_cut_and_cleaned() {
        assert_eq!(actor(" Ada\n "), Some("Ada".to_owned()));
        assert_eq!(actor(" \t"), None);
        assert_eq!(actor(&"x".repeat(100)).map(|name| name.len()), Some(LONGEST_NAME));
    }
}
