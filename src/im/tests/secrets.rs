//! Signatures that are refused, keys that change, and nothing secret in any text.

use std::{
    error::Error,
    io,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tracing::Dispatch;
use tracing_subscriber::{fmt::MakeWriter, prelude::*};

use super::{
    body, client, client_with,
    server::{Answer, Arrived, Server, fail, json},
};
use crate::{
    domain::ErrorClass,
    im::{ClientOptions, user_sig},
};

const SENT: &str = r#"{"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0, "MsgKey": "1_2_3"}"#;

fn signed_with(arrived: &Arrived, secret: &str) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    user_sig::verify(&arrived.query["usersig"], &secret.into(), now).is_ok()
}

#[tokio::test]
async fn a_refused_user_sig_is_signed_anew_once_and_the_call_repeated_once() {
    let server = Server::start(|_, before| if before == 0 { fail(70001) } else { json(SENT) }).await;
    client(&server.url).send(body(1), None).await.unwrap();
    let whole = server.whole();
    assert_eq!(whole.len(), 2);
    assert_eq!(whole[0].body, whole[1].body);
    assert_ne!(whole[0].query["random"], whole[1].query["random"]);
}

#[tokio::test]
async fn credentials_that_stay_refused_are_reported_and_not_hammered() {
    let server = Server::start(|_, _| fail(70003)).await;
    let client = client(&server.url);
    for calls in [2, 3, 4] {
        let error = client.send(body(1), None).await.unwrap_err();
        assert_eq!((error.class, error.word().as_str()), (ErrorClass::Auth, "im-70003"));
        assert_eq!(server.whole().len(), calls);
    }
}

#[tokio::test]
async fn a_refusal_that_no_signature_can_mend_is_reported_at_once() {
    let server = Server::start(|_, _| fail(60010)).await;
    let error = client(&server.url).send(body(1), None).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Auth);
    assert_eq!(server.whole().len(), 1);
}

#[tokio::test]
async fn who_counts_each_call_is_told_that_a_newer_signature_is_worth_a_try() {
    let server = Server::start(|_, _| fail(70001)).await;
    let options = ClientOptions {
        repeat_when_signed_anew: false,
        ..ClientOptions::default()
    };
    let client = client_with(&server.url, options);
    let first = client.send(body(1), None).await.unwrap_err();
    assert_eq!(
        (first.class, first.word().as_str()),
        (ErrorClass::Transient, "im-70001")
    );
    assert_eq!(client.send(body(1), None).await.unwrap_err().class, ErrorClass::Auth);
    assert_eq!(server.whole().len(), 2);
}

#[tokio::test]
async fn a_changed_secret_is_used_from_the_next_call_on() {
    let server = Server::start(|arrived, _| {
        if signed_with(arrived, "rotated") {
            json(SENT)
        } else {
            fail(70009)
        }
    })
    .await;
    let client = client(&server.url);
    assert_eq!(client.send(body(1), None).await.unwrap_err().class, ErrorClass::Auth);
    assert!(client.set_secret("".into()).is_err());
    client.set_secret("rotated".into()).unwrap();
    client.send(body(1), None).await.unwrap();
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn neither_log_nor_error_holds_a_secret_a_user_sig_or_a_text() {
    let log = Log::default();
    let layer = tracing_subscriber::fmt::layer().with_writer(log.clone());
    let everything = Dispatch::new(tracing_subscriber::registry().with(layer));
    // While there is only one subscriber, an event that another test's thread meets first counts as wanted by nobody.
    let _second = Dispatch::new(tracing_subscriber::registry());
    let logging = tracing::dispatcher::set_default(&everything);
    // A service that repeats the signature in its texts.
    let server = Server::start(|arrived, before| match before {
        0 => json(SENT),
        1 | 2 => Answer::Json(format!(
            r#"{{"ActionStatus": "FAIL", "ErrorCode": 70003, "ErrorInfo": "bad {}"}}"#,
            arrived.query["usersig"]
        )),
        3 => Answer::Status(502, arrived.raw_query.clone()),
        _ => Answer::Cut,
    })
    .await;
    let client = client(&server.url);
    client.send(body(1), None).await.unwrap();
    let mut printed = vec![format!("{client:?}")];
    for _ in 0..3 {
        let error = client.send(body(1), None).await.unwrap_err();
        let mut cause: Option<&dyn Error> = Some(&error);
        while let Some(error) = cause {
            printed.push(format!("{error} {error:?}"));
            cause = error.source();
        }
    }
    drop(logging);
    let whole = server.whole();
    assert_eq!(whole.len(), 5);
    printed.push(String::from_utf8(log.0.lock().clone()).unwrap());
    let printed = printed.concat();
    assert!(printed.contains(&whole[0].query["random"]), "the url random is logged");
    for secret in ["marked-secret-key", "marked-text"] {
        assert!(!printed.contains(secret), "{secret}");
    }
    for arrived in &whole {
        assert!(!printed.contains(&arrived.query["usersig"][..32]));
    }
}
