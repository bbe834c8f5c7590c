//! The dashboard's files, compiled in, and the headers that keep it to itself.

use axum::{
    Router,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};

use super::HttpState;

/// Nothing from elsewhere, nothing inline, no evaluated text; and no text becomes markup (`trusted-types`).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// Sent with every answer.
const HEADERS: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

macro_rules! files {
    ($($path:literal = $file:literal as $kind:expr),+ $(,)?) => {
        /// Path, type and content.
        const FILES: &[(&str, &str, &[u8])] = &[$(($path, $kind, include_bytes!(concat!("dashboard/", $file)))),+];
    };
}

files! {
    "/" = "index.html" as HTML,
    "/assets/dashboard.css" = "dashboard.css" as CSS,
    "/assets/icon.svg" = "icon.svg" as "image/svg+xml",
    "/assets/main.js" = "main.js" as JS,
    "/assets/api.js" = "api.js" as JS,
    "/assets/parts.js" = "parts.js" as JS,
    "/assets/format.js" = "format.js" as JS,
    "/assets/live.js" = "live.js" as JS,
    "/assets/charts.js" = "charts.js" as JS,
    "/assets/acts.js" = "acts.js" as JS,
    "/assets/views/now.js" = "views/now.js" as JS,
    "/assets/views/find.js" = "views/find.js" as JS,
    "/assets/views/job.js" = "views/job.js" as JS,
    "/assets/views/waiting.js" = "views/waiting.js" as JS,
    "/assets/views/letters.js" = "views/letters.js" as JS,
    "/assets/views/audit.js" = "views/audit.js" as JS,
    "/assets/vendor/uPlot.js" = "vendor/uPlot.esm.js" as JS,
    "/assets/vendor/uPlot.css" = "vendor/uPlot.min.css" as CSS,
    "/assets/vendor/uPlot.LICENSE" = "vendor/uPlot.LICENSE" as TEXT,
    "/assets/vendor/preact.js" = "vendor/preact.mjs" as JS,
    "/assets/vendor/preact.LICENSE" = "vendor/preact.LICENSE" as TEXT,
}

/// Adds a route for each file.
pub(super) fn routes(mut router: Router<HttpState>) -> Router<HttpState> {
    for (path, kind, content) in FILES {
        let tag = tag(content);
        router = router.route(
            path,
            get(move |headers: HeaderMap| {
                let tag = tag.clone();
                async move { file(&headers, kind, content, &tag) }
            }),
        );
    }
    router
}

fn tag(content: &[u8]) -> String {
    format!("\"{}\"", hex::encode(&Sha256::digest(content)[..12]))
}

fn file(headers: &HeaderMap, kind: &'static str, content: &'static [u8], tag: &str) -> Response {
    let known = headers.get(IF_NONE_MATCH).is_some_and(|known| known == tag);
    // Asked for each time, so that a new version is there at once, and sent only if it changed.
    let caching = [(CACHE_CONTROL, "no-cache"), (ETAG, tag)];
    if known {
        (StatusCode::NOT_MODIFIED, caching).into_response()
    } else {
        (caching, [(CONTENT_TYPE, kind)], content).into_response()
    }
}

/// The headers of every answer.
pub(super) async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What isn't a file is an answer of this moment.
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}
