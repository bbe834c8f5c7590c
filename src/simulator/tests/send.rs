//! sendmsg and importmsg.

use super::*;

#[tokio::test]
async fn a_send_is_answered_with_time_and_key_and_reaches_its_recipient() {
    let bench = Bench::new();
    let body = with(message("bob", "hello"), "CloudCustomData", "mine");
    let reply = bench.call(Command::SendMsg, &body).await;
    assert_eq!(
        (reply["ActionStatus"].as_str(), reply["ErrorCode"].as_i64()),
        (Some("OK"), Some(0))
    );
    let time = reply["MsgTime"].as_u64().unwrap();
    assert!(unix_now().abs_diff(time) <= 2);
    assert_eq!(reply["MsgKey"], format!("5_{}_{time}", body["MsgRandom"]));
    let got = bench.sim.messages_to("bob");
    assert_eq!(got.len(), 1);
    let got = &got[0];
    assert_eq!(
        (got.sender.as_str(), got.text.as_str(), got.custom_data.as_deref()),
        (ADMIN, "hello", Some("mine"))
    );
    assert_eq!(
        (got.key.as_str(), got.read, got.revoked),
        (reply["MsgKey"].as_str().unwrap(), false, false)
    );
    assert_eq!(bench.sim.delivered_total(), 1);
}

#[tokio::test]
async fn every_wrong_field_has_its_code() {
    let bench = Bench::new();
    let good = || message("bob", "hi");
    let raw = |text: &str| {
        bench
            .http
            .post(bench.url(Command::SendMsg))
            .body(text.to_owned())
            .send()
    };
    for (text, code) in [("nonsense", 60003), ("", 60003), ("[]", 90001)] {
        assert_eq!(
            raw(text).await.unwrap().json::<Value>().await.unwrap()["ErrorCode"],
            code,
            "{text}"
        );
    }
    let long = "x".repeat(13_000);
    let cases = [
        (without(good(), "To_Account"), 90003),
        (with(good(), "To_Account", json!(["bob"])), 90003),
        (with(good(), "To_Account", ""), 90003),
        (without(good(), "MsgRandom"), 90005),
        (with(good(), "MsgRandom", "5"), 90005),
        (with(good(), "MsgRandom", 4_294_967_296_u64), 90005),
        (with(good(), "MsgRandom", -1), 90005),
        (with(good(), "MsgSeq", -1), 90001),
        (with(good(), "MsgTimeStamp", "now"), 90006),
        (without(good(), "MsgBody"), 90007),
        (with(good(), "MsgBody", json!({})), 90007),
        (
            with(good(), "MsgBody", json!([{"MsgType": "TIMTextElem", "MsgContent": {}}])),
            90002,
        ),
        (with(good(), "MsgBody", json!([{"MsgType": "Text"}])), 90010),
        (with(good(), "From_Account", 5), 90008),
        (with(good(), "From_Account", "unknown_sender"), 90008),
        (with(good(), "SyncOtherMachine", "1"), 90031),
        (with(good(), "SyncOtherMachine", 3), 90031),
        (with(good(), "MsgLifeTime", 604_801), 90026),
        (with(good(), "MsgLifeTime", "1"), 90044),
        (with(good(), "MsgLifeTime", -1), 90044),
        (with(good(), "OfflinePushInfo", json!({"PushFlag": 3})), 90043),
        (with(good(), "OnlineOnlyFlag", true), 90001),
        (with(good(), "CloudCustomData", 1), 90001),
        (with(good(), "To_Account", "unknown_7"), 90012),
        (with(good(), "To_Account", "x".repeat(33)), 90012),
        (message("bob", &long), 93000),
    ];
    for (body, code) in cases {
        assert_eq!(
            bench.code(Command::SendMsg, &body).await,
            code,
            "{:.120}",
            body.to_string()
        );
    }
    for good in [
        with(good(), "MsgLifeTime", 604_800),
        with(good(), "SyncOtherMachine", 2),
        message("bob", &long[..12_000]),
    ] {
        assert_eq!(bench.code(Command::SendMsg, &good).await, 0);
    }
}

#[tokio::test]
async fn fields_that_are_not_documented_are_let_through_and_reported() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .code(Command::SendMsg, &with(message("bob", "hi"), "Nonsense", 1))
            .await,
        0
    );
    let batch = with(message(json!(["bob"]), "hi"), "ForbidCallbackControl", json!([]));
    assert_eq!(bench.code(Command::BatchSendMsg, &batch).await, 0);
    let unknown = bench.sim.report().unknown_fields;
    assert_eq!(
        unknown.into_iter().collect::<Vec<_>>(),
        [
            ("batchsendmsg.ForbidCallbackControl".to_owned(), 1),
            ("sendmsg.Nonsense".to_owned(), 1),
        ]
    );
}

#[tokio::test]
async fn an_equal_send_within_120_seconds_is_dropped_and_answered_with_the_old_key() {
    let bench = Bench::new();
    let first = bench.send("bob", "once").await;
    bench.sim.advance_clock(Duration::from_secs(100));
    assert_eq!(bench.send("bob", "once").await, first);
    let body = message("bob", "once");
    assert_eq!(
        bench.code(Command::SendMsg, &with(body.clone(), "MsgRandom", 1)).await,
        0,
        "another random is another message"
    );
    assert_eq!(
        bench.code(Command::SendMsg, &with(body.clone(), "MsgSeq", 6)).await,
        0,
        "so is another seq"
    );
    assert_eq!(
        bench
            .code(Command::SendMsg, &with(body.clone(), "CloudCustomData", "x"))
            .await,
        0,
        "and another content"
    );
    assert_eq!(
        bench
            .code(Command::SendMsg, &with(body.clone(), "From_Account", "carol"))
            .await,
        0,
        "and another sender"
    );
    assert_eq!(
        bench.code(Command::SendMsg, &with(body, "To_Account", "dave")).await,
        0,
        "and another recipient"
    );
    assert_eq!((bench.sim.delivered_total(), bench.sim.report().deduplicated), (6, 1));

    bench.sim.advance_clock(Duration::from_secs(25));
    assert_ne!(
        bench.send("bob", "once").await,
        first,
        "125 s after the first it is forgotten"
    );
    assert_eq!(bench.sim.delivered_total(), 7);
}

#[tokio::test]
async fn without_de_duplication_a_repeat_is_a_second_message_and_told_as_sent_twice() {
    let bench = Bench::with(SimulatorOptions {
        dedup: Duration::ZERO,
        ..SimulatorOptions::default()
    });
    bench.send("bob", "again").await;
    assert!(bench.sim.report().sent_twice.is_empty());
    bench.send("bob", "again").await;
    bench.send("bob", "another").await;
    let report = bench.sim.report();
    assert_eq!(
        (report.delivered, report.deduplicated, report.sent_twice.len()),
        (3, 0, 1)
    );
    let twice = &report.sent_twice[0];
    assert_eq!(
        (twice.sender.as_str(), twice.recipient.as_str(), twice.keys.len()),
        (ADMIN, "bob", 2)
    );
    let mut counts: Vec<_> = bench
        .sim
        .deliveries()
        .into_iter()
        .map(|one| (one.text, one.keys.len()))
        .collect();
    counts.sort();
    assert_eq!(counts, [("again".to_owned(), 2), ("another".to_owned(), 1)]);
}

#[tokio::test]
async fn a_send_without_seq_gets_one_drawn_so_that_its_repeat_is_a_second_message() {
    let bench = Bench::new();
    let body = without(message("bob", "no seq"), "MsgSeq");
    let keys = [
        bench.call(Command::SendMsg, &body).await,
        bench.call(Command::SendMsg, &body).await,
    ];
    assert_ne!(keys[0]["MsgKey"], keys[1]["MsgKey"]);
    assert_eq!(bench.sim.messages_to("bob").len(), 2);
}

fn import(text: &str, time: u64) -> Value {
    let body = with(message("bob", text), "From_Account", "alice");
    with(with(body, "MsgTimeStamp", time), "SyncFromOldSystem", 5)
}

#[tokio::test]
async fn an_import_has_its_own_time_and_is_idempotent_in_both_directions() {
    let bench = Bench::new();
    let time = unix_now() - 1_000;
    let reply = bench.call(Command::ImportMsg, &import("old", time)).await;
    assert_eq!(
        (reply["ErrorCode"].as_i64(), reply.get("MsgKey")),
        (Some(0), None),
        "an import answers no key"
    );
    let random = import("old", time)["MsgRandom"].clone();
    let repeat = with(import("another content", time), "MsgRandom", random);
    assert_eq!(bench.code(Command::ImportMsg, &repeat).await, 0);
    let swapped = with(with(repeat, "From_Account", "bob"), "To_Account", "alice");
    assert_eq!(bench.code(Command::ImportMsg, &swapped).await, 0);
    assert_eq!(bench.texts_to("bob"), ["old"], "the first stays");
    assert_eq!(bench.code(Command::ImportMsg, &import("old", time + 1)).await, 0);
    let report = bench.sim.report();
    assert_eq!((report.imported, report.import_repeats, report.delivered), (2, 2, 0));
    assert_eq!(u64::from(bench.sim.messages_to("bob")[0].time), time);
}

#[tokio::test]
async fn sync_from_old_system_is_5_or_2_and_on_older_services_1_or_2() {
    for (legacy, good, bad) in [(false, [5, 2], 1), (true, [1, 2], 5)] {
        let bench = Bench::with(SimulatorOptions {
            legacy_import: legacy,
            ..SimulatorOptions::default()
        });
        for value in good {
            assert_eq!(
                bench
                    .code(Command::ImportMsg, &with(import("x", 9), "SyncFromOldSystem", value))
                    .await,
                0
            );
        }
        for body in [
            with(import("x", 9), "SyncFromOldSystem", bad),
            without(import("x", 9), "SyncFromOldSystem"),
        ] {
            assert_eq!(bench.code(Command::ImportMsg, &body).await, 90030);
        }
    }
    let bench = Bench::new();
    for (body, code) in [
        (without(import("x", 9), "From_Account"), 90008),
        (without(import("x", 9), "MsgTimeStamp"), 90006),
        (with(import("x", 9), "To_Account", "missing_1"), 90012),
    ] {
        assert_eq!(bench.code(Command::ImportMsg, &body).await, code);
    }
}
