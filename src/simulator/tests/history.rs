//! `admin_getroammsg`.

use super::*;

fn query(operator: &str, peer: &str) -> Value {
    json!({"Operator_Account": operator, "Peer_Account": peer, "MaxCnt": 100, "MinTime": 0, "MaxTime": 4_000_000_000_u32})
}

fn texts(reply: &Value) -> Vec<String> {
    assert_eq!(reply["ErrorCode"], 0, "{reply}");
    let list = reply["MsgList"].as_array().unwrap();
    assert_eq!(reply["MsgCnt"].as_u64().unwrap(), list.len() as u64);
    list.iter()
        .map(|item| item["MsgBody"][0]["MsgContent"]["Text"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_conversation_is_seen_from_both_sides_under_either_field_names() {
    let bench = Bench::new();
    let body = with(message("bob", "hi"), "CloudCustomData", "c");
    let key = bench.call(Command::SendMsg, &body).await["MsgKey"].clone();
    for query in [
        query(ADMIN, "bob"),
        query("bob", ADMIN),
        json!({"From_Account": "bob", "To_Account": ADMIN, "MaxCnt": 1, "MinTime": 0, "MaxTime": 4_000_000_000_u32}),
    ] {
        let reply = bench.call(Command::GetRoamMsg, &query).await;
        assert_eq!(texts(&reply), ["hi"]);
        let item = &reply["MsgList"][0];
        assert_eq!(
            (item["From_Account"].as_str(), item["To_Account"].as_str()),
            (Some(ADMIN), Some("bob"))
        );
        assert_eq!(
            (&item["MsgKey"], &item["MsgFlagBits"], &item["CloudCustomData"]),
            (&key, &json!(0), &json!("c"))
        );
        assert_eq!((&item["MsgSeq"], &item["MsgRandom"]), (&json!(5), &body["MsgRandom"]));
        assert_eq!((&reply["Complete"], &reply["LastMsgKey"]), (&json!(1), &key));
    }
    let nothing = bench.call(Command::GetRoamMsg, &query("bob", "carol")).await;
    assert_eq!((texts(&nothing).len(), nothing["Complete"].as_i64()), (0, Some(1)));
}

#[tokio::test]
async fn wrong_fields_have_their_codes() {
    let bench = Bench::new();
    for (body, code) in [
        (without(query("a", "b"), "Operator_Account"), 90008),
        (without(query("a", "b"), "Peer_Account"), 90003),
        (query("unknown_1", "b"), 90008),
        (query("a", "unknown_1"), 90003),
        (without(query("a", "b"), "MaxCnt"), 90001),
        (with(query("a", "b"), "MaxCnt", 0), 90001),
        (with(query("a", "b"), "MinTime", "0"), 90001),
        (without(query("a", "b"), "MaxTime"), 90001),
    ] {
        assert_eq!(bench.code(Command::GetRoamMsg, &body).await, code, "{body}");
    }
}

#[tokio::test]
async fn sync_other_machine_2_is_seen_by_the_recipient_only_and_online_only_by_nobody() {
    let bench = Bench::new();
    assert_eq!(
        bench
            .code(
                Command::SendMsg,
                &with(message("bob", "one side"), "SyncOtherMachine", 2)
            )
            .await,
        0
    );
    assert_eq!(
        bench
            .code(Command::SendMsg, &with(message("bob", "zero life"), "MsgLifeTime", 0))
            .await,
        0
    );
    assert_eq!(
        bench
            .code(Command::SendMsg, &with(message("bob", "online"), "OnlineOnlyFlag", 1))
            .await,
        0
    );
    assert!(texts(&bench.call(Command::GetRoamMsg, &query(ADMIN, "bob")).await).is_empty());
    assert_eq!(
        texts(&bench.call(Command::GetRoamMsg, &query("bob", ADMIN)).await),
        ["one side"]
    );
    assert_eq!((bench.sim.delivered_total(), bench.sim.report().online_only), (3, 2));
    let unread = bench.call(Command::GetUnreadNum, &json!({"To_Account": "bob"})).await;
    assert_eq!(unread["AllC2CUnreadMsgNum"], 1);
}

#[tokio::test]
async fn pages_go_backward_in_time_oldest_first_and_the_loop_sees_each_message_once() {
    let bench = Bench::new();
    for number in 0..25 {
        bench.send("bob", &format!("m{number:02}")).await;
        if number % 4 == 3 {
            bench.sim.advance_clock(Duration::from_secs(1));
        }
    }
    let mut query = with(query("bob", ADMIN), "MaxCnt", 10);
    let mut all = Vec::new();
    for (length, complete) in [(10, 0), (10, 0), (5, 1)] {
        let reply = bench.call(Command::GetRoamMsg, &query).await;
        let page = texts(&reply);
        assert_eq!((page.len(), reply["Complete"].as_i64()), (length, Some(complete)));
        let first = &reply["MsgList"][0];
        assert_eq!(
            (&reply["LastMsgTime"], &reply["LastMsgKey"]),
            (&first["MsgTimeStamp"], &first["MsgKey"])
        );
        query = with(
            with(query, "MaxTime", reply["LastMsgTime"].clone()),
            "LastMsgKey",
            reply["LastMsgKey"].clone(),
        );
        all.splice(0..0, page);
    }
    assert_eq!(all, (0..25).map(|number| format!("m{number:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_page_ends_at_13_kilobytes_and_at_100_messages() {
    let bench = Bench::new();
    for number in 0..6 {
        bench.send("bob", &format!("{number}{}", "x".repeat(4_000))).await;
    }
    let reply = bench.call(Command::GetRoamMsg, &query("bob", ADMIN)).await;
    assert_eq!((texts(&reply).len(), reply["Complete"].as_i64()), (3, Some(0)));
    assert!(reply["MsgList"].to_string().len() <= 13 * 1024);
    bench.send("carol", &"y".repeat(12_000)).await;
    for number in 0..110 {
        bench.send("dave", &number.to_string()).await;
    }
    let one = bench.call(Command::GetRoamMsg, &query("carol", ADMIN)).await;
    assert_eq!(texts(&one).len(), 1);
    let short = bench
        .call(Command::GetRoamMsg, &with(query("dave", ADMIN), "MaxCnt", 1_000))
        .await;
    assert!(texts(&short).len() <= 100 && short["Complete"] == 0);
}

#[tokio::test]
async fn both_ends_of_the_time_are_included_and_retention_is_a_week() {
    let bench = Bench::new();
    let key = bench.send("bob", "hi").await;
    let time: u64 = key.rsplit('_').next().unwrap().parse().unwrap();
    let between = |from, to| with(with(query("bob", ADMIN), "MinTime", from), "MaxTime", to);
    for (from, to, found) in [
        (time, time, 1),
        (time + 1, time + 9, 0),
        (time - 9, time - 1, 0),
        (time - 9, time, 1),
    ] {
        let reply = bench.call(Command::GetRoamMsg, &between(from, to)).await;
        assert_eq!(texts(&reply).len(), found, "{from} {to} {time}");
    }
    // The client's UserSig lives for 600 s, so it is renewed after the clock was put forward.
    bench.sim.advance_clock(Duration::from_hours(7 * 24 + 1));
    let sig = sign(SAMPLE_SDK_APP_ID, ADMIN, SAMPLE_SECRET, unix_now() + 8 * 86_400, 600);
    let bench = Bench { sig, ..bench };
    assert!(texts(&bench.call(Command::GetRoamMsg, &query("bob", ADMIN)).await).is_empty());
}

#[tokio::test]
async fn a_message_is_invisible_while_the_history_lags() {
    let bench = Bench::new();
    bench.sim.set_roam_lag(Duration::from_mins(3));
    bench.send("bob", "late").await;
    bench.sim.advance_clock(Duration::from_secs(170));
    assert!(texts(&bench.call(Command::GetRoamMsg, &query("bob", ADMIN)).await).is_empty());
    bench.sim.advance_clock(Duration::from_secs(10));
    assert_eq!(
        texts(&bench.call(Command::GetRoamMsg, &query("bob", ADMIN)).await),
        ["late"]
    );
}

#[tokio::test]
async fn a_side_that_deleted_its_conversation_no_longer_sees_it_and_the_other_does() {
    let bench = Bench::new();
    bench.send("bob", "hi").await;
    bench.sim.clear_conversation(SAMPLE_SDK_APP_ID, "bob", ADMIN);
    assert!(texts(&bench.call(Command::GetRoamMsg, &query("bob", ADMIN)).await).is_empty());
    assert_eq!(
        texts(&bench.call(Command::GetRoamMsg, &query(ADMIN, "bob")).await),
        ["hi"]
    );
}

#[tokio::test]
async fn an_imported_message_takes_its_place_by_time() {
    let bench = Bench::new();
    bench.send("bob", "new").await;
    let import = with(
        with(message("bob", "old"), "From_Account", ADMIN),
        "MsgTimeStamp",
        unix_now() - 60,
    );
    assert_eq!(
        bench
            .code(Command::ImportMsg, &with(import, "SyncFromOldSystem", 2))
            .await,
        0
    );
    assert_eq!(
        texts(&bench.call(Command::GetRoamMsg, &query("bob", ADMIN)).await),
        ["old", "new"]
    );
}
