use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

mod sessions;

use super::*;
use crate::{
    domain::{AppName, JobId, job::RevokeTarget},
    store::Store,
    telemetry::Metrics,
};

struct Health(Mutex<Readiness>);

impl HealthSource for Health {
    fn readiness(&self) -> Readiness {
        self.0.lock().clone()
    }

    fn dependencies(&self) -> Vec<(&'static str, bool)> {
        vec![("postgres", self.0.lock().ready), ("rabbitmq", true)]
    }
}

/// Remembers what it was asked to revoke.
#[derive(Default)]
struct Remembers(Mutex<Vec<(JobId, AppName, RevokeTarget)>>);

#[async_trait]
impl Revoker for Remembers {
    async fn revoke(&self, id: JobId, app: AppName, target: RevokeTarget) -> Result<(), RevokeError> {
        if app.as_str() == "nobody" {
            return Err(RevokeError::UnknownApp(app));
        }
        self.0.lock().push((id, app, target));
        Ok(())
    }
}

struct Running {
    address: SocketAddr,
    health: Arc<Health>,
    revoker: Arc<Remembers>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    client: reqwest::Client,
}

impl Running {
    async fn start(pool: PgPool, admin: Option<&str>, readonly: Option<&str>, limits: Limits) -> Self {
        let server = Server::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap()
            .with_limits(limits);
        let address = server.local_addr().unwrap();
        let health = Arc::new(Health(Mutex::default()));
        let revoker = Arc::new(Remembers::default());
        let token = |token: Option<&str>| token.map(secrecy::SecretString::from);
        let store = Store::of_pool(pool);
        let stop = CancellationToken::new();
        let state = HttpState {
            health: Arc::clone(&health) as Arc<dyn HealthSource>,
            metrics: Arc::new(Metrics::new()),
            store: store.clone(),
            revoker: Arc::clone(&revoker) as Arc<dyn Revoker>,
            tokens: Tokens::new(token(admin).as_ref(), token(readonly).as_ref()),
            namespace: "im".into(),
            apps: [AppName::default_app()].into(),
            fleet: crate::fleet::View::start(store, None, stop.clone()),
            worker: uuid::Uuid::new_v4(),
            letters: Letters::default(),
        };
        let task = tokio::spawn(server.run(state, stop.clone()));
        Self {
            address,
            health,
            revoker,
            stop,
            task,
            client: reqwest::Client::new(),
        }
    }

    async fn open(pool: PgPool) -> Self {
        Self::start(pool, None, None, Limits::default()).await
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        self.client.request(method.parse().unwrap(), url)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let response = self.request("GET", path).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn status(&self, method: &str, path: &str, token: &str) -> StatusCode {
        let request = self.request(method, path).json(&json!({"group": "g"}));
        let request = if token.is_empty() {
            request
        } else {
            request.bearer_auth(token)
        };
        request.send().await.unwrap().status()
    }

    fn ready(&self, ready: bool) {
        *self.health.0.lock() = Readiness {
            ready,
            reasons: vec!["RabbitMQ is away".into()],
            notes: vec!["app shop is paused".into()],
        };
    }
}

#[sqlx::test]
async fn health_is_told_by_status_with_reasons_and_notes(pool: PgPool) {
    let server = Running::open(pool).await;
    assert_eq!(server.request("GET", "/healthz").send().await.unwrap().status(), 200);
    server.ready(false);
    let (status, body) = server.get("/readyz").await;
    assert_eq!(
        (status.as_u16(), body),
        (503, json!({"ready": false, "reasons": ["RabbitMQ is away"]}))
    );
    server.ready(true);
    let (status, body) = server.get("/readyz").await;
    assert_eq!(
        (status.as_u16(), body),
        (200, json!({"ready": true, "notes": ["app shop is paused"]}))
    );
    let text = server
        .request("GET", "/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in [
        "im_dispatcher_ready 1\n",
        "im_dispatcher_dependency_ready{dependency=\"postgres\"} 1\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    // Nobody asked /readyz meanwhile.
    server.ready(false);
    let text = server.request("GET", "/metrics").send().await.unwrap();
    assert!(text.text().await.unwrap().contains("im_dispatcher_ready 0\n"));
}

#[sqlx::test]
async fn a_job_and_a_group_are_found_and_what_is_not_there_is_404(pool: PgPool) {
    sqlx::query(
        "INSERT INTO jobs (id, digest, type, app, group_name, lane, owner, state, total)
         VALUES ('a/b c', '\\x00', 1, 'default', 'spring sale', 1, 1, 0, 3)",
    )
    .execute(&pool)
    .await
    .unwrap();
    let server = Running::open(pool).await;
    let (status, body) = server.get("/api/jobs/a%2Fb%20c").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        (&body["state"], &body["recipients"]["pending"]),
        (&json!("pending"), &json!(3))
    );
    let (status, body) = server.get("/api/groups/spring%20sale").await;
    assert_eq!((status.as_u16(), &body["jobs"]), (200, &json!(1)));
    for path in ["/api/jobs/nobody", "/api/groups/nobody", "/nowhere"] {
        let (status, body) = server.get(path).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["code"]),
            (404, &json!("not-found")),
            "{path}"
        );
    }
    for path in ["/api/jobs/x?state=lost", "/api/jobs/x?limit=many", "/api/jobs/x?page=2"] {
        assert_eq!(server.get(path).await.0, 422, "{path}");
    }
    let (status, body) = server.get("/api/overview").await;
    assert_eq!((status.as_u16(), &body["namespace"]), (200, &json!("im")));
    assert_eq!(
        body["backlog"],
        json!({"work": 0, "past_due": 0, "doubts": 0, "outbox": 0})
    );
}

#[sqlx::test]
async fn with_tokens_set_nothing_of_the_api_is_answered_without_one(pool: PgPool) {
    let server = Running::start(pool, Some("boss"), Some("guest"), Limits::default()).await;
    for path in ["/api/overview", "/api/jobs/x", "/api/groups/x"] {
        assert_eq!(server.status("GET", path, "").await, 401, "{path}");
        assert_eq!(server.status("GET", path, "bosss").await, 401, "{path}");
        assert_ne!(server.status("GET", path, "guest").await, 401, "{path}");
        assert_ne!(server.status("GET", path, "boss").await, 401, "{path}");
    }
    assert_eq!(server.status("POST", "/api/revocations", "").await, 401);
    assert_eq!(server.status("POST", "/api/revocations", "guest").await, 403);
    assert_eq!(server.status("POST", "/api/revocations", "boss").await, 202);
    for path in ["/healthz", "/metrics"] {
        assert_eq!(server.status("GET", path, "").await, 200, "{path}");
    }
}

#[sqlx::test]
async fn the_read_only_token_alone_lets_nobody_act(pool: PgPool) {
    let server = Running::start(pool, None, Some("guest"), Limits::default()).await;
    assert_eq!(server.status("GET", "/api/overview", "guest").await, 200);
    assert_eq!(server.status("GET", "/api/overview", "").await, 401);
    assert_eq!(server.status("POST", "/api/revocations", "guest").await, 403);
    assert!(server.revoker.0.lock().is_empty());
}

#[sqlx::test]
async fn a_revocation_is_taken_with_its_target_or_refused_by_field(pool: PgPool) {
    let server = Running::open(pool).await;
    let post = async |path: &str, body: &Value| {
        let response = server.request("POST", path).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (status, body) = post("/api/revocations?id=rev-1", &json!({"job": "j", "to": ["a"]})).await;
    assert_eq!((status, body), (202, json!({"revocation": "rev-1"})));
    let (status, body) = post("/api/revocations", &json!({"group": "g"})).await;
    assert_eq!((status, body["revocation"].as_str().map(str::len)), (202, Some(36)));
    {
        let taken = server.revoker.0.lock();
        assert_eq!(taken.len(), 2);
        assert_eq!(taken[0].0.as_str(), "rev-1");
        assert!(matches!(&taken[0].2, RevokeTarget::Job { to: Some(to), .. } if to.len() == 1));
    }
    let (status, body) = post("/api/revocations", &json!({"jobb": "j"})).await;
    assert_eq!(status, 422);
    assert!(body["error"]["message"].as_str().unwrap().contains("jobb"), "{body}");
    assert_eq!(post("/api/revocations?app=nobody", &json!({"job": "j"})).await.0, 422);
    let text = server
        .request("POST", "/api/revocations")
        .body("{\"job\":\"j\"}")
        .send()
        .await
        .unwrap();
    assert_eq!(
        text.status(),
        422,
        "only application/json, which no form of another site can send"
    );
    let long = vec![b' '; 5 * 1024 * 1024];
    let request = server
        .request("POST", "/api/revocations")
        .header("content-type", "application/json")
        .body(long);
    // The server may close while the rest is still being written.
    if let Ok(response) = request.send().await {
        assert_eq!(response.status(), 413);
    }
    assert_eq!(server.revoker.0.lock().len(), 2);
}

#[sqlx::test]
async fn requests_that_another_sites_page_makes_are_refused(pool: PgPool) {
    let server = Running::open(pool).await;
    let post = async |name: &str, value: &str| {
        let request = server
            .request("POST", "/api/revocations")
            .header(name, value)
            .json(&json!({"job": "j"}));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(post("origin", "https://evil.example").await, 403);
    assert_eq!(post("origin", "null").await, 403);
    assert_eq!(post("sec-fetch-site", "cross-site").await, 403);
    assert_eq!(
        post("host", "evil.example").await,
        403,
        "a name that was made to resolve to loopback"
    );
    assert_eq!(post("origin", &format!("http://{}", server.address)).await, 202);
    assert_eq!(post("sec-fetch-site", "same-origin").await, 202);
    let rebound = server.request("GET", "/api/overview").header("host", "evil.example");
    assert_eq!(rebound.send().await.unwrap().status(), 403);
}

/// Reads until the server closes.
async fn closed(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[sqlx::test]
async fn slow_clients_are_cut_off_and_others_are_served_meanwhile(pool: PgPool) {
    let limits = Limits {
        connections: 4,
        headers: Duration::from_millis(300),
        request: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = Running::start(pool, None, None, limits).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHo").await.unwrap();
    let mut trickle = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /api/revocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{";
    trickle.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(server.request("GET", "/healthz").send().await.unwrap().status(), 200);
    closed(slow).await;
    assert!(closed(trickle).await.starts_with("HTTP/1.1 408"));
    // More than there are places for: those that say nothing lose theirs.
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert_eq!(server.request("GET", "/healthz").send().await.unwrap().status(), 200);
    drop(silent);
    let mut huge = TcpStream::connect(server.address).await.unwrap();
    let line = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    huge.write_all(line.as_bytes()).await.ok();
    let answer = closed(huge).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[sqlx::test]
async fn a_body_of_a_hundred_megabytes_and_a_url_without_end_are_refused_early(pool: PgPool) {
    const SENT: usize = 100 * 1024 * 1024;
    let server = Running::open(pool).await;
    for length in [
        format!("content-length: {SENT}"),
        "transfer-encoding: chunked".to_owned(),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /api/revocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut chunk = b"100000\r\n".to_vec();
        chunk.extend(std::iter::repeat_n(b' ', 1024 * 1024));
        chunk.extend(b"\r\n");
        let mut written = 0;
        // Until the server has had enough: it answers and closes, whatever is still to come.
        while written < SENT && stream.write_all(&chunk).await.is_ok() {
            written += chunk.len();
        }
        // 4 MiB are read; the rest is what two sockets' buffers hold.
        assert!(written < SENT / 2, "{length}: {written} bytes were taken");
        let answer = closed(stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let line = format!(
        "GET /api/search?by=id&q={} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "x".repeat(1024 * 1024)
    );
    stream.write_all(line.as_bytes()).await.ok();
    let answer = closed(stream).await;
    let refused = ["HTTP/1.1 414", "HTTP/1.1 431", "HTTP/1.1 400"];
    assert!(
        answer.is_empty() || refused.iter().any(|status| answer.starts_with(status)),
        "{answer}"
    );
    assert_eq!(server.request("GET", "/healthz").send().await.unwrap().status(), 200);
}

#[sqlx::test]
async fn a_hundred_connections_that_say_nothing_dont_keep_a_probe_out(pool: PgPool) {
    let limits = Limits {
        connections: 8,
        headers: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Running::start(pool, None, None, limits).await;
    let silent: Vec<TcpStream> = futures::future::try_join_all((0..100).map(|_| TcpStream::connect(server.address)))
        .await
        .unwrap();
    // Each round of eight places is over after 200 ms.
    let probe = server.request("GET", "/healthz").timeout(Duration::from_secs(30));
    assert_eq!(probe.send().await.unwrap().status(), 200);
    for stream in silent {
        assert_eq!(closed(stream).await, "");
    }
}

#[sqlx::test]
async fn a_stop_ends_idle_connections_and_the_server(pool: PgPool) {
    let server = Running::open(pool).await;
    assert_eq!(server.request("GET", "/healthz").send().await.unwrap().status(), 200);
    let begun = Instant::now();
    server.stop.cancel();
    server.task.await.unwrap();
    assert!(
        begun.elapsed() < Limits::default().drain,
        "an idle kept-alive connection holds nothing up"
    );
    assert!(TcpStream::connect(server.address).await.is_err());
}
