//! What a call that went wrong leaves behind: surely nothing, or doubt.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::{
    body, client, client_with,
    server::{Answer, Server, json, read_request, write_reply},
};
use crate::{
    domain::ErrorClass,
    im::{
        ClientOptions, ImClient, ImError, ImErrorKind,
        guard::{self, Written},
        options::tests::app,
        transport,
    },
};

const SENT: &str = r#"{"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0, "MsgKey": "1_2_3"}"#;

#[track_caller]
fn assert_failed(error: &ImError, kind: ImErrorKind, class: ErrorClass) {
    assert_eq!((error.kind, error.class), (kind, class), "{error}");
    assert_eq!(
        error.not_written(),
        class == ErrorClass::Transient && kind != ImErrorKind::Refused,
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_that_is_not_the_apis_leaves_a_send_in_doubt_and_an_import_not() {
    for status in [302, 403, 404, 408, 429, 500, 502, 503] {
        let server = Server::start(move |_, _| Answer::Status(status, SENT.to_owned())).await;
        let client = client(&server.url);
        let error = client.send(body(1), None).await.unwrap_err();
        assert_failed(&error, ImErrorKind::Http, ErrorClass::Ambiguous);
        assert_eq!(
            (error.http_status, error.word()),
            (Some(status), format!("http-{status}"))
        );
        let error = client.import(body(1), None).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Transient);
        assert_eq!(server.whole().len(), 2, "neither a redirect nor a retry is followed");
    }
}

#[tokio::test]
async fn a_reply_that_proves_nothing_leaves_a_send_in_doubt() {
    for reply in [
        "",
        "<html>marked-page</html>",
        "[]",
        "null",
        r#"{"ActionStatus": "OK"}"#,
        r#"{"ActionStatus": "OK", "ErrorCode": 0}"#,
        r#"{"ActionStatus": "OK", "ErrorCode": 0, "MsgKey": ""}"#,
        r#"{"ActionStatus": "FAIL", "ErrorCode": 0, "MsgKey": "1_2_3"}"#,
        r#"{"ErrorCode": 0, "MsgKey": "1_2_3"}"#,
        r#"{"ActionStatus": "OK", "ErrorCode": "0", "MsgKey": "1_2_3"}"#,
        r#"{"ActionStatus": "FAIL", "ErrorCode": 90001, "MsgKey": "1_2_3"}"#,
    ] {
        let server = Server::start(move |_, _| json(reply)).await;
        let client = client(&server.url);
        let send = client.send(body(1), None).await.unwrap_err();
        assert_failed(&send, ImErrorKind::BadReply, ErrorClass::Ambiguous);
        assert!(!format!("{send} {send:?}").contains("marked-page"));
        let batch = client.batch_send(body(1), None).await.unwrap_err();
        assert_failed(&batch, ImErrorKind::BadReply, ErrorClass::Ambiguous);
    }
}

#[tokio::test]
async fn a_reply_without_end_is_not_read_to_it() {
    let server = Server::start(|_, _| Answer::Json(format!("{SENT}{}", " ".repeat(2 << 20)))).await;
    let error = client(&server.url).send(body(1), None).await.unwrap_err();
    assert_failed(&error, ImErrorKind::BadReply, ErrorClass::Ambiguous);
}

#[tokio::test]
async fn a_connection_cut_before_or_within_the_answer_leaves_doubt_and_is_not_retried() {
    for half in [false, true] {
        let server = Server::start(move |_, _| if half { Answer::Half } else { Answer::Cut }).await;
        let error = client(&server.url).send(body(1), None).await.unwrap_err();
        assert_failed(&error, ImErrorKind::ConnectionLost, ErrorClass::Ambiguous);
        assert_eq!(error.word(), "connection-lost");
        assert_eq!(server.whole().len(), 1);
    }
}

/// The time-out may pass before the request was written on a slow machine: such a call is not what is tested here, and
/// is made again with more time.
async fn never_answered<T>(call: impl AsyncFn(ImClient) -> Result<T, ImError>) -> (ImError, Server) {
    let server = Server::start(|_, _| Answer::Never).await;
    let mut total_timeout = Duration::from_millis(100);
    loop {
        let options = ClientOptions {
            total_timeout,
            ..ClientOptions::default()
        };
        match call(client_with(&server.url, options)).await {
            Ok(_) => panic!("nobody has answered"),
            Err(error) if error.not_written() && total_timeout < Duration::from_mins(1) => {
                assert_eq!(error.class, ErrorClass::Transient, "{error}");
            }
            Err(error) => return (error, server),
        }
        total_timeout *= 2;
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_ends_in_a_timeout_in_doubt() {
    let (error, server) = never_answered(async |client| client.send(body(1), None).await).await;
    assert_failed(&error, ImErrorKind::Timeout, ErrorClass::Ambiguous);
    assert_eq!(error.word(), "timeout");
    assert_eq!(server.whole().len(), 1);
    let (error, _server) = never_answered(async |client| client.import(body(1), None).await).await;
    assert_eq!((error.kind, error.class), (ImErrorKind::Timeout, ErrorClass::Transient));
}

#[tokio::test]
async fn a_refused_connection_leaves_no_doubt() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let error = client(&format!("http://127.0.0.1:{port}"))
        .send(body(1), None)
        .await
        .unwrap_err();
    assert_failed(&error, ImErrorKind::Connect, ErrorClass::Transient);
    assert_eq!(error.word(), "connect");
    assert!(error.url_random.is_some());
}

#[tokio::test]
async fn an_unknown_host_leaves_no_doubt() {
    // `.invalid` never resolves (RFC 2606).
    let error = client("https://im.invalid").send(body(1), None).await.unwrap_err();
    assert_failed(&error, ImErrorKind::Connect, ErrorClass::Transient);
}

#[tokio::test]
async fn a_handshake_that_never_ends_leaves_no_doubt() {
    let server = Server::serve(|stream, _| async move {
        let kept = stream;
        std::future::pending::<()>().await;
        drop(kept);
    })
    .await;
    let url = server.url.replace("http://", "https://");
    for (connect, total) in [(100, 10_000), (10_000, 100)] {
        let options = ClientOptions {
            connect_timeout: Duration::from_millis(connect),
            total_timeout: Duration::from_millis(total),
            ..ClientOptions::default()
        };
        let error = client_with(&url, options).send(body(1), None).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Transient, "{error}");
        assert!(error.not_written(), "{error}");
    }
}

#[tokio::test]
async fn after_the_deadline_nothing_is_sent() {
    let server = Server::start(|_, _| json(SENT)).await;
    let client = client(&server.url);
    let error = client.send(body(1), Some(Instant::now())).await.unwrap_err();
    assert_failed(&error, ImErrorKind::Deadline, ErrorClass::Transient);
    assert_eq!(error.word(), "deadline");
    assert_eq!(server.seen.lock().connections, 0);
    let in_time = Instant::now() + Duration::from_mins(1);
    assert!(client.send(body(1), Some(in_time)).await.is_ok());
}

/// The deadline passes while the connection is being made: the check before the call was still in time.
#[tokio::test]
async fn a_deadline_that_passed_on_the_way_keeps_the_request_from_being_whole() {
    let server = Server::start(|_, _| json(SENT)).await;
    let http = transport::http_client(&app(&server.url), ClientOptions::default()).unwrap();
    let (guard, late) = guard::guard(body(1), Some(Instant::now()), 1);
    let error = http
        .post(&server.url)
        .body(reqwest::Body::wrap(late))
        .send()
        .await
        .unwrap_err();
    assert_eq!(guard.give_up(), Written::TooLate, "{error}");
    // The next call goes through, so the server has had its time to see what there was to see.
    client(&server.url).send(body(2), None).await.unwrap();
    let whole = server.whole();
    assert_eq!(
        whole
            .iter()
            .map(|arrived| arrived.body["MsgSeq"].clone())
            .collect::<Vec<_>>(),
        [2]
    );
}

/// A server that promises to keep its connections and closes each after one answer: the client may learn of it before
/// it writes, while it writes, or afterwards. Whatever it then reports must be true.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_reported_of_a_connection_closed_meanwhile_is_true() {
    let counts: Arc<Mutex<HashMap<u64, usize>>> = Arc::default();
    let arrived = Arc::clone(&counts);
    let server = Server::serve(move |mut stream, _| {
        let counts = Arc::clone(&arrived);
        async move {
            if let Some(request) = read_request(&mut stream).await {
                *counts.lock().entry(request["MsgSeq"].as_u64().unwrap()).or_default() += 1;
                write_reply(&mut stream, SENT).await;
            }
        }
    })
    .await;
    let client = client(&server.url);
    let calls = (0..8_u32).map(|task| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for seq in task * 100..task * 100 + 100 {
                outcomes.push((seq, client.send(body(seq), None).await));
            }
            outcomes
        })
    });
    let outcomes: Vec<_> = futures::future::join_all(calls)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    let counts = counts.lock();
    for (seq, outcome) in &outcomes {
        let arrivals = counts.get(&u64::from(*seq)).copied().unwrap_or(0);
        match outcome {
            Ok(_) => assert_eq!(arrivals, 1),
            Err(error) if error.not_written() => {
                assert_eq!((error.class, arrivals), (ErrorClass::Transient, 0), "{error}");
            }
            Err(error) => {
                assert_failed(error, ImErrorKind::ConnectionLost, ErrorClass::Ambiguous);
                assert!(arrivals <= 1, "{error}");
            }
        }
    }
    assert!(outcomes.iter().any(|(_, outcome)| outcome.is_ok()));
}
