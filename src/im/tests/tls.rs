//! Certificates are verified, and one's own authority can be trusted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use super::{
    body, client_with,
    server::{Server, json, serve_http},
};
use crate::{
    domain::ErrorClass,
    im::{ClientOptions, ImClient, ImErrorKind, ImSetupError, options::tests::app},
};

const SENT: &str = r#"{"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0, "MsgKey": "1_2_3"}"#;

/// A server with a certificate of its own for `name`; also its URL and its certificate as PEM. Its handshakes begin
/// once `open` is true.
async fn tls_server(name: &str, open: watch::Receiver<bool>) -> (Server, String, Vec<u8>) {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let pem = certified.cert.pem().into_bytes();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::serve(move |stream, seen| {
        let (acceptor, mut open) = (acceptor.clone(), open.clone());
        async move {
            open.wait_for(|open| *open).await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                serve_http(stream, seen, Arc::new(|_: &_, _| json(SENT))).await;
            }
        }
    })
    .await;
    let url = server.url.replace("http://127.0.0.1", "https://localhost");
    (server, url, pem)
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_before_anything_is_written() {
    let (server, url, _) = tls_server("localhost", watch::channel(true).1).await;
    let error = client_with(&url, ClientOptions::default())
        .send(body(1), None)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.class),
        (ImErrorKind::Connect, ErrorClass::Transient),
        "{error:?}"
    );
    assert!(error.not_written());
    assert!(server.whole().is_empty());
}

/// Trusts `pem`, and has time on the slowest machine.
fn trusting(pem: &[u8]) -> ClientOptions {
    ClientOptions {
        connect_timeout: Duration::from_mins(1),
        total_timeout: Duration::from_mins(1),
        extra_ca_pem: Some(pem.to_vec()),
        ..ClientOptions::default()
    }
}

#[tokio::test]
async fn a_call_that_was_cancelled_while_it_waited_for_its_connection_is_never_written() {
    let (open, opened) = watch::channel(false);
    let (server, url, pem) = tls_server("localhost", opened).await;
    let client = client_with(&url, trusting(&pem));
    let cancelled = tokio::spawn({
        let client = client.clone();
        async move { client.send(body(1), None).await }
    });
    while server.seen.lock().connections == 0 {
        tokio::task::yield_now().await;
    }
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    open.send(true).unwrap();
    client.send(body(2), None).await.unwrap();
    let seqs: Vec<_> = server
        .whole()
        .into_iter()
        .map(|arrived| arrived.body["MsgSeq"].clone())
        .collect();
    assert_eq!(seqs, [2]);
}

#[tokio::test]
async fn a_deadline_that_passes_during_the_handshake_keeps_the_call_from_being_written() {
    let (open, opened) = watch::channel(false);
    let (server, url, pem) = tls_server("localhost", opened).await;
    let client = client_with(&url, trusting(&pem));
    let deadline = Instant::now() + Duration::from_millis(50);
    let call = client.send(body(1), Some(deadline));
    let opening = async {
        tokio::time::sleep_until(deadline.into()).await;
        open.send(true).unwrap();
    };
    let (outcome, ()) = tokio::join!(call, opening);
    let error = outcome.unwrap_err();
    assert_eq!(
        (error.kind, error.class),
        (ImErrorKind::Deadline, ErrorClass::Transient),
        "{error:?}"
    );
    assert!(error.not_written());
    client.send(body(2), None).await.unwrap();
    let seqs: Vec<_> = server
        .whole()
        .into_iter()
        .map(|arrived| arrived.body["MsgSeq"].clone())
        .collect();
    assert_eq!(seqs, [2]);
}

#[tokio::test]
async fn an_extra_authority_is_trusted_for_its_own_names_only() {
    let (server, url, pem) = tls_server("localhost", watch::channel(true).1).await;
    client_with(&url, trusting(&pem)).send(body(1), None).await.unwrap();
    assert_eq!(server.whole().len(), 1);

    let (server, url, pem) = tls_server("another.example", watch::channel(true).1).await;
    let error = client_with(&url, trusting(&pem)).send(body(1), None).await.unwrap_err();
    assert_eq!(error.kind, ImErrorKind::Connect, "{error:?}");
    assert!(server.whole().is_empty());
}

#[test]
fn what_is_no_certificate_is_refused_at_the_start() {
    for pem in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        let options = ClientOptions {
            extra_ca_pem: Some(pem.into()),
            ..ClientOptions::default()
        };
        let outcome = ImClient::new(app("https://localhost"), options);
        assert!(
            matches!(outcome, Err(ImSetupError::ExtraCa(_) | ImSetupError::HttpClient(_))),
            "{pem}"
        );
    }
}
