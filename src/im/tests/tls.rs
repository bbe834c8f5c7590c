//! Certificates are verified, and one's own authority can be trusted.

use std::sync::Arc;

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

/// A server with a certificate of its own for `name`; also its URL and its certificate as PEM.
async fn tls_server(name: &str) -> (Server, String, Vec<u8>) {
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
        let acceptor = acceptor.clone();
        async move {
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
    let (server, url, _) = tls_server("localhost").await;
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

#[tokio::test]
async fn an_extra_authority_is_trusted_for_its_own_names_only() {
    let (server, url, pem) = tls_server("localhost").await;
    let trusting = |pem: &[u8]| ClientOptions {
        extra_ca_pem: Some(pem.to_vec()),
        ..ClientOptions::default()
    };
    client_with(&url, trusting(&pem)).send(body(1), None).await.unwrap();
    assert_eq!(server.whole().len(), 1);

    let (server, url, pem) = tls_server("another.example").await;
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
