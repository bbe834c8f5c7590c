//! `admin_msgwithdraw`, `admin_set_msg_read` and `get_c2c_unread_msg_num`.

use super::*;

fn revoke(from: &str, to: &str, key: &str) -> Value {
    json!({"From_Account": from, "To_Account": to, "MsgKey": key})
}

async fn unread(bench: &Bench, user: &str) -> i64 {
    bench.call(Command::GetUnreadNum, &json!({"To_Account": user})).await["AllC2CUnreadMsgNum"]
        .as_i64()
        .unwrap()
}

#[tokio::test]
async fn a_message_is_revoked_once_and_then_listed_with_flag_8_and_no_longer_unread() {
    let bench = Bench::new();
    let key = bench.send("bob", "oops").await;
    assert_eq!(unread(&bench, "bob").await, 1);
    assert_eq!(bench.code(Command::MsgWithdraw, &revoke(ADMIN, "bob", &key)).await, 0);
    assert_eq!(
        bench.code(Command::MsgWithdraw, &revoke(ADMIN, "bob", &key)).await,
        20023
    );
    assert_eq!(unread(&bench, "bob").await, 0);
    let history =
        json!({"Operator_Account": "bob", "Peer_Account": ADMIN, "MaxCnt": 9, "MinTime": 0, "MaxTime": u32::MAX});
    let reply = bench.call(Command::GetRoamMsg, &history).await;
    assert_eq!(
        (&reply["MsgList"][0]["MsgFlagBits"], &reply["MsgCnt"]),
        (&json!(8), &json!(1))
    );
    assert_eq!(bench.sim.report().revoked, 1);
    assert!(bench.sim.messages_to("bob")[0].revoked);
}

#[tokio::test]
async fn what_cannot_be_revoked_says_why() {
    let bench = Bench::new();
    let key = bench.send("bob", "x").await;
    let online = with(message("bob", "online"), "OnlineOnlyFlag", 1);
    let online = bench.call(Command::SendMsg, &online).await["MsgKey"]
        .as_str()
        .unwrap()
        .to_owned();
    for (body, code) in [
        (revoke("bob", ADMIN, &key), 20022),
        (revoke(ADMIN, "carol", &key), 20022),
        (revoke(ADMIN, "bob", "1_2_3"), 20022),
        (revoke(ADMIN, "bob", &online), 20022),
        (revoke(ADMIN, "bob", "1_2"), 90054),
        (revoke(ADMIN, "bob", "1_2_x"), 90054),
        (revoke(ADMIN, "bob", ""), 90054),
        (without(revoke(ADMIN, "bob", &key), "From_Account"), 90008),
        (without(revoke(ADMIN, "bob", &key), "To_Account"), 90003),
        (revoke("unknown_1", "bob", &key), 90008),
    ] {
        assert_eq!(bench.code(Command::MsgWithdraw, &body).await, code, "{body}");
    }
    let one_side = with(message("bob", "one side"), "SyncOtherMachine", 2);
    let key = bench.call(Command::SendMsg, &one_side).await["MsgKey"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        bench.code(Command::MsgWithdraw, &revoke(ADMIN, "bob", &key)).await,
        0,
        "the recipient's side is enough"
    );
}

#[tokio::test]
async fn a_batch_is_revoked_recipient_by_recipient() {
    let bench = Bench::new();
    let key = bench
        .call(Command::BatchSendMsg, &message(json!(["a", "b"]), "x"))
        .await["MsgKey"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(bench.code(Command::MsgWithdraw, &revoke(ADMIN, "a", &key)).await, 0);
    assert!(bench.sim.messages_to("a")[0].revoked && !bench.sim.messages_to("b")[0].revoked);
}

#[tokio::test]
async fn reading_clears_up_to_the_given_second_and_counts_are_by_peer() {
    let bench = Bench::new();
    bench.send("bob", "one").await;
    bench.sim.advance_clock(Duration::from_secs(10));
    let second = bench.send("bob", "two").await;
    assert_eq!(
        bench
            .code(Command::SendMsg, &with(message("bob", "c"), "From_Account", "carol"))
            .await,
        0
    );
    assert_eq!(
        bench
            .code(
                Command::SendMsg,
                &with(message("bob", "silent"), "SendMsgControl", json!(["NoUnread"]))
            )
            .await,
        0
    );
    let peers = json!({"To_Account": "bob", "Peer_Account": [ADMIN, "carol", "dave", "unknown_1"]});
    let reply = bench.call(Command::GetUnreadNum, &peers).await;
    let counts: Vec<_> = reply["C2CUnreadMsgNumList"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["C2CUnreadMsgNum"])
        .collect();
    assert_eq!(counts, [2, 1, 0]);
    assert_eq!(
        reply["ErrorList"],
        json!([{"Peer_Account": "unknown_1", "ErrorCode": 70107}])
    );

    let time: u64 = second.rsplit('_').next().unwrap().parse().unwrap();
    let read = json!({"Report_Account": "bob", "Peer_Account": ADMIN, "MsgReadTime": (time - 1).to_string()});
    assert_eq!(bench.code(Command::SetMsgRead, &read).await, 0, "a string is taken");
    assert_eq!(unread(&bench, "bob").await, 2);
    assert_eq!(
        bench
            .code(Command::SetMsgRead, &with(read.clone(), "MsgReadTime", time))
            .await,
        0,
        "a number too"
    );
    assert_eq!(unread(&bench, "bob").await, 1);
    assert_eq!(
        bench
            .code(
                Command::SetMsgRead,
                &json!({"Report_Account": "bob", "Peer_Account": "carol"})
            )
            .await,
        0
    );
    assert_eq!(unread(&bench, "bob").await, 0);
    assert_eq!(
        bench.code(Command::SetMsgRead, &without(read, "Report_Account")).await,
        90008
    );
}

#[tokio::test]
async fn imports_count_as_unread_only_if_they_are_live() {
    let bench = Bench::new();
    for (text, mode) in [("live", 5), ("history", 2)] {
        let body = with(
            with(message("bob", text), "From_Account", "alice"),
            "MsgTimeStamp",
            1_700_000_000,
        );
        assert_eq!(
            bench
                .code(Command::ImportMsg, &with(body, "SyncFromOldSystem", mode))
                .await,
            0
        );
    }
    assert_eq!(unread(&bench, "bob").await, 1);
}

#[tokio::test]
async fn more_than_ten_peers_and_unknown_users_are_refused() {
    let bench = Bench::new();
    let peers = |count: usize| json!({"To_Account": "bob", "Peer_Account": vec!["alice"; count]});
    assert_eq!(bench.code(Command::GetUnreadNum, &peers(10)).await, 0);
    assert_eq!(bench.code(Command::GetUnreadNum, &peers(11)).await, 90018);
    assert_eq!(bench.code(Command::GetUnreadNum, &json!({})).await, 90003);
    assert_eq!(
        bench
            .code(Command::GetUnreadNum, &json!({"To_Account": "unknown_1"}))
            .await,
        90048
    );
}
