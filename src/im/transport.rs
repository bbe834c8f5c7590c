//! How does one HTTP request go out, and what came of it? One request, one answer: no retries, no redirects, no proxy.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header::CONTENT_TYPE};
use reqwest::{Certificate, Client, redirect, retry};

use super::{
    error::{ImError, ImErrorKind},
    guard::{self, Guard, Written},
    options::{ClientOptions, ImApp, ImSetupError, is_loopback},
    signer::Signed,
};
use crate::domain::Command;

/// The longest reply that is read. A page of history ends at 13 KB, and 500 entries of an `ErrorList` have about 40 KB.
const MAX_REPLY: usize = 1 << 20;

/// Makes the HTTP client of one app.
pub(super) fn http_client(app: &ImApp, options: ClientOptions) -> Result<Client, ImSetupError> {
    let ClientOptions {
        connect_timeout,
        total_timeout,
        max_idle_per_host,
        pool_idle_timeout,
        extra_ca_pem,
        ..
    } = options;
    let mut builder = Client::builder()
        .retry(retry::never())
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .http1_only()
        .connect_timeout(connect_timeout)
        .timeout(total_timeout)
        .tcp_keepalive(total_timeout)
        .pool_max_idle_per_host(max_idle_per_host)
        .pool_idle_timeout(pool_idle_timeout)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));
    #[cfg(target_os = "linux")]
    {
        // A write that the peer never acknowledges must not arrive after the call has been given up.
        builder = builder.tcp_user_timeout(total_timeout);
    }
    let extra = extra_ca_pem.as_deref().map_or(Ok(Vec::new()), extra_certificates)?;
    builder = if app.base_url.scheme() == "http" && is_loopback(&app.base_url) {
        // No TLS: the platform's certificates need not be there, nor be read.
        builder.tls_certs_only(extra)
    } else {
        builder.tls_certs_merge(extra)
    };
    builder
        .build()
        .map_err(|e| ImSetupError::HttpClient(e.without_url().into()))
}

fn extra_certificates(pem: &[u8]) -> Result<Vec<Certificate>, ImSetupError> {
    match Certificate::from_pem_bundle(pem) {
        Ok(certificates) if certificates.is_empty() => {
            Err(ImSetupError::ExtraCa("there is no certificate in it".into()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(ImSetupError::ExtraCa(error.into())),
    }
}

/// Sends one request and reads its answer, which has a status of 2xx.
pub(super) async fn exchange(
    http: &Client,
    command: Command,
    signed: &Signed,
    random: u32,
    body: Bytes,
    deadline: Option<Instant>,
) -> Result<(Bytes, u16), ImError> {
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(too_late(command));
    }
    let (guard, body) = guard::guard(body, deadline, random);
    let sent = http
        .post(signed.url(command, random))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(reqwest::Body::wrap(body))
        .send()
        .await;
    let response = sent.map_err(|error| failure(command, error, &guard).at(random, None))?;
    let status = response.status();
    // The body of a failure is read too, so that the connection stays usable.
    let bytes = read(response).await;
    if !status.is_success() {
        let written = guard.give_up() == Written::Yes;
        let text = format!("the answer has the HTTP status {status}, so it is not the API's");
        return Err(ImError::without_code(command, ImErrorKind::Http, written, text).at(random, Some(status.as_u16())));
    }
    match bytes {
        Ok(bytes) => Ok((bytes, status.as_u16())),
        Err(ReadError::Broken(error)) => Err(failure(command, error, &guard).at(random, Some(status.as_u16()))),
        Err(ReadError::TooLong) => {
            let written = guard.give_up() == Written::Yes;
            let text = "the answer is longer than any of the API's";
            Err(ImError::without_code(command, ImErrorKind::BadReply, written, text).at(random, Some(status.as_u16())))
        }
    }
}

enum ReadError {
    Broken(reqwest::Error),
    TooLong,
}

async fn read(mut response: reqwest::Response) -> Result<Bytes, ReadError> {
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(ReadError::Broken)? {
        if first.as_ref().map_or(0, Bytes::len).max(rest.len()) + chunk.len() > MAX_REPLY {
            return Err(ReadError::TooLong);
        }
        match &first {
            None => first = Some(chunk),
            Some(head) => {
                if rest.is_empty() {
                    rest.extend_from_slice(head);
                }
                rest.extend_from_slice(&chunk);
            }
        }
    }
    Ok(if rest.is_empty() {
        first.unwrap_or_default()
    } else {
        rest.freeze()
    })
}

fn too_late(command: Command) -> ImError {
    let text = "the deadline passed before the request was written";
    ImError::without_code(command, ImErrorKind::Deadline, false, text)
}

/// What an error of the HTTP library means. Whether the request had been written is known from its body alone: the
/// library also reports a lost connection when it never began to write on it.
fn failure(command: Command, error: reqwest::Error, guard: &Guard) -> ImError {
    let written = match guard.give_up() {
        Written::TooLate => return too_late(command),
        Written::Yes => true,
        Written::No => false,
    };
    let (kind, text) = if error.is_dns() {
        (ImErrorKind::Connect, "the service's host name can't be resolved")
    } else if error.is_connect() {
        (ImErrorKind::Connect, "no connection to the service")
    } else if error.is_timeout() && written {
        (ImErrorKind::Timeout, "no answer within the total time-out")
    } else if error.is_timeout() {
        (ImErrorKind::Timeout, "no connection was free within the total time-out")
    } else if written {
        (
            ImErrorKind::ConnectionLost,
            "the connection broke before the answer was there",
        )
    } else {
        (
            ImErrorKind::ConnectionLost,
            "the connection broke before the request was written",
        )
    };
    ImError::without_code(command, kind, written, text).caused_by(error.without_url())
}
