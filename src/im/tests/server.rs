//! A server on loopback that answers as a test says and records what reached it.

use std::{collections::BTreeMap, convert::Infallible, future::pending, sync::Arc};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A request as it arrived, whole.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) path: String,
    pub(super) raw_query: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: HeaderMap,
    pub(super) body: serde_json::Value,
}

/// What a test has the server do with a whole request.
pub(super) enum Answer {
    Json(String),
    Status(u16, String),
    /// A status line, headers and a part of the body, then the connection breaks.
    Half,
    /// The connection breaks without an answer.
    Cut,
    /// Nothing is ever answered.
    Never,
}

pub(super) fn json(text: &str) -> Answer {
    Answer::Json(text.to_owned())
}

/// A refusal as the API spells it.
pub(super) fn fail(code: i32) -> Answer {
    Answer::Json(format!(
        r#"{{"ActionStatus": "FAIL", "ErrorCode": {code}, "ErrorInfo": "refused by the test"}}"#
    ))
}

/// What the server saw.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) whole: Vec<Arrived>,
    /// Requests whose body ended too early.
    pub(super) broken: usize,
    pub(super) connections: usize,
}

pub(super) struct Server {
    pub(super) url: String,
    pub(super) seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// `answer` is told the request and how many came before it.
    pub(super) async fn start(answer: impl Fn(&Arrived, usize) -> Answer + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::serve(move |stream, seen| {
            let answer = Arc::clone(&answer);
            async move { serve_http(stream, seen, answer).await }
        })
        .await
    }

    /// A server whose connections `serve` handles as it likes.
    pub(super) async fn serve<F>(serve: impl Fn(TcpStream, Arc<Mutex<Seen>>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.lock().connections += 1;
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { url, seen, task }
    }

    pub(super) fn whole(&self) -> Vec<Arrived> {
        self.seen.lock().whole.clone()
    }
}

/// One HTTP connection, whatever it runs over.
pub(super) async fn serve_http<S, A>(stream: S, seen: Arc<Mutex<Seen>>, answer: Arc<A>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(&Arrived, usize) -> Answer + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
        async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await else {
                seen.lock().broken += 1;
                return Err("the request broke off");
            };
            let arrived = Arrived {
                path: parts.uri.path().to_owned(),
                raw_query: parts.uri.query().unwrap_or_default().to_owned(),
                query: url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                    .into_owned()
                    .collect(),
                headers: parts.headers,
                body: serde_json::from_slice(&body.to_bytes()).unwrap(),
            };
            let before = {
                let mut seen = seen.lock();
                seen.whole.push(arrived.clone());
                seen.whole.len() - 1
            };
            respond(answer(&arrived, before)).await
        }
    });
    // A connection that a test breaks ends with an error here.
    drop(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}

type Body = BoxBody<Bytes, &'static str>;

async fn respond(answer: Answer) -> Result<Response<Body>, &'static str> {
    let whole = |text: String| {
        http_body_util::Full::new(text.into())
            .map_err(|never: Infallible| match never {})
            .boxed()
    };
    let (status, body) = match answer {
        Answer::Json(text) => (200, whole(text)),
        Answer::Status(status, text) => (status, whole(text)),
        Answer::Half => {
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"{\"Action"))),
                Err("broken by the test"),
            ];
            (200, BodyExt::boxed(StreamBody::new(stream::iter(frames))))
        }
        Answer::Cut => return Err("cut by the test"),
        Answer::Never => pending().await,
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    if response.status().is_redirection() {
        response
            .headers_mut()
            .insert("location", HeaderValue::from_static("/elsewhere"));
    }
    Ok(response)
}

/// Reads one HTTP request with a Content-Length off a stream; `None` at its end.
pub(super) async fn read_request(stream: &mut TcpStream) -> Option<serde_json::Value> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(str::to_owned)
            });
            if body.len() >= length?.parse::<usize>().unwrap() {
                return Some(serde_json::from_str(body).unwrap());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Writes an answer of status 200 that promises to keep the connection.
pub(super) async fn write_reply(stream: &mut TcpStream, text: &str) {
    let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    stream.write_all(reply.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}
