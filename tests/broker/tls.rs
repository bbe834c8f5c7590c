//! TLS to a real RabbitMQ with an authority of one's own, whose certificates, like the login's password, are changed while
//! the broker layer runs. Skipped where RabbitMQ isn't installed on the machine itself.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use im_dispatcher::{
    broker::{Broker, BrokerOptions, BrokerSetupError, Disposition},
    domain::Lane,
    producer::{Producer, ProducerOptions},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use secrecy::SecretString;

use crate::{
    fixture::{Fixture, next, on_a_thread, text, until},
    private_broker_process::PrivateBroker,
};

/// Writes a new authority's certificate to `ca`, and one that it made for `localhost` with its key into `dir`.
fn certify(ca: &Path, dir: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let own = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let of_server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = of_server.signed_by(&key, &issuer).unwrap();
    std::fs::write(ca, own.pem()).unwrap();
    std::fs::write(dir.join("server.pem"), certificate.pem()).unwrap();
    std::fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
}

/// A broker that also listens with TLS: it, its URL with a password, and the directory of its certificate.
async fn private(ca: PathBuf) -> Option<(PrivateBroker, u16, PathBuf)> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    tokio::task::spawn_blocking(move || {
        let mut certificates = PathBuf::new();
        let private = PrivateBroker::start_with(|dir| {
            dir.clone_into(&mut certificates);
            certify(&ca, dir);
            let path = |name: &str| dir.join(name).display().to_string();
            format!(
                "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
                 ssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n",
                path("server.pem"),
                path("server.key"),
            )
        })?;
        Some((private, port, certificates))
    })
    .await
    .unwrap()
}

fn url(port: u16, password: &str) -> SecretString {
    format!("amqps://guest:{password}@localhost:{port}/%2f").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_authority_and_a_password_are_replaced_while_the_broker_layer_runs() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let Some((private, port, certificates)) = private(ca.clone()).await else {
        return;
    };
    let fixture = Fixture::at(private.url()).await;
    let options = |ca: Option<PathBuf>| BrokerOptions {
        ca_file: ca,
        max_backoff: Duration::from_millis(300),
        ..BrokerOptions::new(url(port, "guest"), fixture.namespace.as_str())
    };

    // Nobody knows this authority, so nobody says who they are.
    let (stranger, _deliveries) = Broker::start(options(None)).unwrap();
    until("the certificate is refused", || {
        let reasons = stranger.readiness().reasons;
        reasons
            .iter()
            .any(|reason| reason.to_lowercase().contains("certificate"))
    })
    .await;
    stranger.close().await;

    let mut running = fixture.start(options(Some(ca.clone()))).await;
    let mut high = running.deliveries.take(Lane::High);
    running.job(Lane::High, "first").await;
    let delivery = next(&mut high).await;
    assert_eq!(text(&delivery), "first");
    delivery.settle(Disposition::Ack);
    // A producer of another program.
    let mut producing = ProducerOptions::new(format!("amqps://guest:guest@localhost:{port}/%2f"));
    producing.namespace.clone_from(&fixture.namespace);
    producing.ca_file = Some(ca.clone());
    let producer = Producer::connect(producing).await.unwrap();
    producer.close().await;

    // Another authority, and another password. What stands goes on; the next connections are made with both.
    private.ctl(&["change_password", "guest", "changed"]);
    let connections = running.broker.stats().reconnects.get();
    let other_user = format!("amqps://other:changed@localhost:{port}/%2f").into();
    assert_eq!(
        running.broker.set_url(&other_user),
        Err(BrokerSetupError::DifferentUrls)
    );
    running.broker.set_url(&url(port, "changed")).unwrap();
    certify(&ca, &certificates);
    private.ctl(&["eval", "ssl:clear_pem_cache()."]);
    running.job(Lane::High, "meanwhile").await;
    next(&mut high).await.settle(Disposition::Ack);
    assert_eq!(running.broker.stats().reconnects.get(), connections);
    private.ctl(&["eval", "dets:sync(ra_directory_reverse)."]);
    let private = on_a_thread(private, PrivateBroker::kill).await;
    until("the connections are missed", || !running.broker.is_connected()).await;
    let private = on_a_thread(private, PrivateBroker::restart).await;
    running.broker.wait_until_ready(Duration::from_mins(1)).await.unwrap();
    running.job(Lane::High, "last").await;
    // What came before may come again: its ack may not have been on disk.
    loop {
        let delivery = next(&mut high).await;
        let seen = text(&delivery);
        delivery.settle(Disposition::Ack);
        if seen == "last" {
            break;
        }
    }
    running.broker.close().await;
    drop(private);
}

#[tokio::test]
async fn a_file_without_certificates_stops_the_start_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let start = || {
        let options = BrokerOptions {
            ca_file: Some(path.clone()),
            ..BrokerOptions::new("amqps://guest:s3cret@localhost:1/%2f".to_owned().into(), "x")
        };
        Broker::start(options).map(|_| ()).unwrap_err().to_string()
    };
    let missing = start();
    assert!(
        missing.contains("amqp.ca_file") && missing.contains("ca.pem"),
        "{missing}"
    );
    std::fs::write(&path, "no certificate").unwrap();
    let empty = start();
    assert!(empty.contains("it holds no certificate in PEM"), "{empty}");
    assert!(!missing.contains("s3cret") && !empty.contains("s3cret"));
}
