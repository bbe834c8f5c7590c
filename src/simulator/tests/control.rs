//! The control API.

use super::*;

async fn get(bench: &Bench, path: &str) -> Value {
    bench
        .http
        .get(format!("{}/_sim/{path}", bench.sim.base_url()))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap()
}

async fn post(bench: &Bench, path: &str, body: &Value) -> (u16, Value) {
    let url = format!("{}/_sim/{path}", bench.sim.base_url());
    let reply = bench.http.post(url).body(body.to_string()).send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap())
}

#[tokio::test]
async fn it_tells_what_was_accepted() {
    let bench = Bench::new();
    let key = bench.send("bob@x", "hello").await;
    bench.send("carol", "hi").await;
    let report = get(&bench, "report").await;
    assert_eq!(
        (
            &report["delivered"],
            &report["apps"]["1400000000"]["sendmsg"]["codes"]["0"]
        ),
        (&json!(2), &json!(2))
    );
    let messages = get(&bench, "messages?to=bob%40x&limit=5").await;
    assert_eq!(
        (
            messages.as_array().unwrap().len(),
            &messages[0]["key"],
            &messages[0]["text"]
        ),
        (1, &json!(key), &json!("hello"))
    );
    let calls = get(&bench, "calls?limit=1&command=sendmsg").await;
    assert_eq!(
        (calls.as_array().unwrap().len(), &calls[0]["first_recipient"]),
        (1, &json!("carol"))
    );
    assert_eq!(get(&bench, "deliveries").await.as_array().unwrap().len(), 2);
    assert_eq!(post(&bench, "reset", &json!({})).await.0, 200);
    assert_eq!(get(&bench, "report").await["calls"], 0);
    assert!(
        get(&bench, "nothing").await["error"]
            .as_str()
            .unwrap()
            .contains("/_sim/nothing")
    );
}

#[tokio::test]
async fn it_changes_faults_limits_accounts_settings_apps_and_the_clock() {
    let bench = Bench::new();
    let rules = json!({"add": ["sendmsg:code:91000=next:1", "importmsg:never=0.5"]});
    assert_eq!(post(&bench, "faults", &rules).await.0, 200);
    assert_eq!(bench.code(Command::SendMsg, &message("bob", "x")).await, 91000);
    assert_eq!(
        get(&bench, "faults").await[0],
        json!({"rule": "sendmsg:code:91000=next:1", "matched": 1, "fired": 1})
    );
    let (status, error) = post(&bench, "faults", &json!({"add": ["sendmsg:nonsense=1"]})).await;
    assert!(status == 400 && error["error"].as_str().unwrap().contains("unknown fault"));
    assert_eq!(post(&bench, "faults", &json!({"clear": true})).await.0, 200);
    assert_eq!(get(&bench, "faults").await, json!([]));

    let (_, limits) = post(
        &bench,
        "limits",
        &json!({"calls_per_second": {"sendmsg": 7}, "recipients_per_minute": 9}),
    )
    .await;
    assert_eq!(
        (&limits["calls_per_second"][0], &limits["calls_per_second"][1]),
        (&json!(7), &json!(0))
    );
    assert_eq!(
        post(&bench, "limits", &json!({"calls_per_second": 0})).await.1["recipients_per_minute"],
        9
    );
    assert_eq!(post(&bench, "limits", &json!({"sdk_app_id": 3})).await.0, 400);
    assert_eq!(post(&bench, "limits", &json!({"nonsense": 3})).await.0, 400);

    assert_eq!(post(&bench, "accounts", &json!({"unknown": ["bob"]})).await.0, 200);
    assert_eq!(bench.code(Command::SendMsg, &message("bob", "x")).await, 90012);
    assert_eq!(post(&bench, "accounts", &json!({"only": ["bob"]})).await.0, 200);
    assert_eq!(bench.code(Command::SendMsg, &message("alice", "x")).await, 90012);

    assert_eq!(
        post(
            &bench,
            "settings",
            &json!({"dedup": "0s", "latency": {"sendmsg": "1ms"}})
        )
        .await
        .0,
        200
    );
    bench.send("bob", "twice").await;
    bench.send("bob", "twice").await;
    assert_eq!(bench.sim.report().sent_twice.len(), 1);
    assert_eq!(post(&bench, "settings", &json!({"latency": "soon"})).await.0, 400);

    assert_eq!(post(&bench, "clock", &json!({"advance": "700s"})).await.0, 200);
    assert_eq!(
        bench.code(Command::SendMsg, &message("bob", "x")).await,
        70001,
        "its UserSig is over now"
    );
    assert_eq!(
        post(
            &bench,
            "apps",
            &json!({"sdk_app_id": 7, "admin": "root", "secret": "s"})
        )
        .await
        .0,
        200
    );
    let url = bench.url(Command::SendMsg).replace("1400000000", "7");
    let reply = bench
        .http
        .post(url)
        .body("{}")
        .send()
        .await
        .unwrap()
        .json::<Value>()
        .await
        .unwrap();
    assert_eq!(reply["ErrorCode"], 70009, "the app is there, with another key");
}

#[test]
fn it_needs_no_runtime_and_its_port_is_closed_when_it_is_dropped() {
    let sim = Simulator::start(SimulatorOptions {
        threads: 2,
        ..SimulatorOptions::default()
    })
    .unwrap();
    let address = sim.address();
    assert!(std::net::TcpStream::connect(address).is_ok());
    assert!(format!("{sim:?}").contains(&address.port().to_string()));
    drop(sim);
    assert!(std::net::TcpStream::connect(address).is_err());
}
