//! The dashboard's own ways in: files, sessions, the audit log.

use reqwest::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, ETAG, IF_NONE_MATCH, SET_COOKIE};

use super::*;

async fn sign_in(server: &Running, body: &Value) -> reqwest::Response {
    server.request("POST", "/api/session").json(body).send().await.unwrap()
}

/// The cookie pair of a sign-in.
async fn cookie(server: &Running, token: &str) -> String {
    let response = sign_in(server, &json!({"token": token, "name": "Ada"})).await;
    assert_eq!(response.status(), 200);
    let set = response.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains(token), "the token itself is in no cookie");
    set.split(';').next().unwrap().to_owned()
}

async fn audit(server: &Running, token: &str) -> Vec<Value> {
    let request = server.request("GET", "/api/audit").bearer_auth(token);
    let log: Value = request.send().await.unwrap().json().await.unwrap();
    log["entries"].as_array().unwrap().clone()
}

#[sqlx::test]
async fn the_page_is_served_to_everybody_and_trusts_nothing_from_elsewhere(pool: PgPool) {
    let server = Running::start(pool, Some("boss"), None, Limits::default()).await;
    let page = server.request("GET", "/").send().await.unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let tag = page.headers()[ETAG].clone();
    let text = page.text().await.unwrap();
    for mark in ["<script>", "style=\"", "onclick", "http://", "https://"] {
        assert!(!text.contains(mark), "{mark} is in the page");
    }
    let again = server
        .request("GET", "/")
        .header(IF_NONE_MATCH, tag)
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), 304);
    // Whatever the page asks for is there.
    for path in text.split(['"', '\'']).filter(|part| part.starts_with("/assets/")) {
        assert_eq!(
            server.request("GET", path).send().await.unwrap().status(),
            200,
            "{path}"
        );
    }
    let api = server.request("GET", "/api/overview").send().await.unwrap();
    assert_eq!(api.status(), 401);
    assert_eq!(api.headers()[CACHE_CONTROL], "no-store");
    assert!(api.headers().contains_key(CONTENT_SECURITY_POLICY));
}

#[sqlx::test]
async fn a_session_looks_and_acts_only_from_the_dashboards_own_page(pool: PgPool) {
    let server = Running::start(pool, Some("boss"), Some("guest"), Limits::default()).await;
    let wrong = sign_in(&server, &json!({"token": "bosss"})).await;
    assert_eq!((wrong.status().as_u16(), wrong.headers().get(SET_COOKIE)), (401, None));
    let session = cookie(&server, "boss").await;
    let get = server.request("GET", "/api/overview").header(COOKIE, &session);
    let overview: Value = get.send().await.unwrap().json().await.unwrap();
    assert_eq!(overview["role"], "operator");
    let who = server.request("GET", "/api/session").header(COOKIE, &session);
    let who: Value = who.send().await.unwrap().json().await.unwrap();
    assert_eq!(who, json!({"role": "operator", "name": "Ada", "sign_in": true}));
    let own = format!("http://{}", server.address);
    let act = async |headers: &[(&'static str, &str)]| {
        let mut request = server
            .request("POST", "/api/revocations")
            .header(COOKIE, &session)
            .json(&json!({"job": "j"}));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let mark = ("x-im-dispatcher", "dashboard");
    assert_eq!(act(&[]).await, 403, "without the page's header");
    assert_eq!(act(&[mark, ("origin", "https://evil.example")]).await, 403);
    assert_eq!(act(&[mark, ("sec-fetch-site", "cross-site")]).await, 403);
    assert_eq!(act(&[mark, ("sec-fetch-site", "same-site")]).await, 403);
    assert!(server.revoker.0.lock().is_empty());
    assert_eq!(
        act(&[mark, ("origin", &own), ("sec-fetch-site", "same-origin")]).await,
        202
    );
    let log = audit(&server, "guest").await;
    let shown: Vec<_> = log
        .iter()
        .map(|entry| {
            (
                entry["action"].as_str(),
                entry["target"].as_str(),
                entry["actor"].as_str(),
                entry["via"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some("revoke"), Some("job j"), Some("Ada"), Some("session")),
            (Some("sign-in"), Some("operator"), Some("Ada"), Some("session")),
        ]
    );
    assert_eq!(
        (&log[0]["result"], &log[0]["address"]),
        (&json!("done"), &json!("127.0.0.1"))
    );
    let out = server.request("DELETE", "/api/session").send().await.unwrap();
    assert_eq!(
        (out.status().as_u16(), out.headers().get_all(SET_COOKIE).iter().count()),
        (204, 2)
    );
}

#[sqlx::test]
async fn a_read_only_session_does_nothing_and_a_changed_token_ends_it(pool: PgPool) {
    let server = Running::start(pool.clone(), Some("boss"), Some("guest"), Limits::default()).await;
    let session = cookie(&server, "guest").await;
    for (method, path) in [
        ("POST", "/api/revocations"),
        ("POST", "/api/lanes/bulk/pause"),
        ("POST", "/api/lanes/bulk/resume"),
        ("POST", "/api/groups/g/pause"),
        ("POST", "/api/apps/default/pause"),
        ("POST", "/api/dead-letters/replay"),
        ("POST", "/api/dead-letters/discard"),
    ] {
        let request = server.request(method, path).json(&json!({"group": "g", "all": true}));
        let by_session = request
            .try_clone()
            .unwrap()
            .header(COOKIE, &session)
            .header("x-im-dispatcher", "dashboard");
        assert_eq!(by_session.send().await.unwrap().status(), 403, "{path}");
        let by_token = request.try_clone().unwrap().bearer_auth("guest");
        assert_eq!(by_token.send().await.unwrap().status(), 403, "{path}");
        assert_eq!(request.send().await.unwrap().status(), 401, "{path}");
    }
    for path in [
        "/api/overview",
        "/api/rates",
        "/api/audit",
        "/api/search?q=x",
        "/api/doubts",
        "/api/parked",
        "/api/dead-letters",
        "/api/dead-letters/run",
        "/api/jobs/x",
        "/api/jobs/x/explain",
        "/api/groups/x",
    ] {
        assert_eq!(server.status("GET", path, "").await, 401, "{path}");
        let request = server.request("GET", path).header(COOKIE, &session);
        assert_ne!(request.send().await.unwrap().status(), 401, "{path}");
    }
    let other = Running::start(pool, Some("boss"), Some("visitor"), Limits::default()).await;
    let request = other.request("GET", "/api/overview").header(COOKIE, &session);
    assert_eq!(request.send().await.unwrap().status(), 401);
    // A forged end, or another role's name, opens nothing.
    let forged = session.replacen("=1", "=9", 1);
    let request = server.request("GET", "/api/overview").header(COOKIE, forged);
    assert_eq!(request.send().await.unwrap().status(), 401);
}

#[sqlx::test]
async fn a_bearers_act_is_noted_with_its_name_and_how_it_failed(pool: PgPool) {
    let server = Running::start(pool, Some("boss"), None, Limits::default()).await;
    let revoke = server
        .request("POST", "/api/revocations?app=nobody")
        .bearer_auth("boss")
        .header("x-im-actor", "night shift")
        .json(&json!({"group": "g"}));
    assert_eq!(revoke.send().await.unwrap().status(), 422);
    let pause = server.request("POST", "/api/lanes/bulk/pause").bearer_auth("boss");
    assert_eq!(pause.send().await.unwrap().status(), 200);
    let missing = server.request("POST", "/api/apps/nobody/pause").bearer_auth("boss");
    assert_eq!(missing.send().await.unwrap().status(), 404);
    let log = audit(&server, "boss").await;
    assert_eq!(log.len(), 2, "what isn't there isn't acted on: {log:?}");
    assert_eq!(
        (&log[1]["actor"], &log[1]["via"], &log[1]["result"]),
        (&json!("night shift"), &json!("bearer"), &json!("failed"))
    );
    assert!(log[1]["detail"].as_str().unwrap().contains("nobody"), "{log:?}");
    assert_eq!(
        (&log[0]["target"], &log[0]["result"]),
        (&json!("lane bulk"), &json!("done"))
    );
}
