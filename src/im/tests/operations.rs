//! Each operation's request and its answers.

use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use serde_json::json;

use super::{
    account, body, client,
    server::{Answer, Server, fail, json},
};
use crate::{
    domain::{AccountId, ErrorClass, ErrorCode, MsgKey, SdkAppId},
    im::{HistoryQuery, ImClient, ImErrorKind, options::tests::app, unread_calls, user_sig},
};

const OK: &str = r#"{"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}"#;
const SENT: &str =
    r#"{"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0, "MsgTime": 3, "MsgKey": "1_2_3", "MsgId": "x"}"#;

fn key(text: &str) -> MsgKey {
    MsgKey::parse(text).unwrap()
}

#[tokio::test]
async fn a_request_has_the_documented_shape_and_a_random_of_its_own() {
    let server = Server::start(|_, _| json(SENT)).await;
    let mut app = app(&server.url);
    app.admin = account("ad min&ü");
    let client = ImClient::new(app, crate::im::ClientOptions::default()).unwrap();
    for seq in [7, 8] {
        let reply = client.send(body(seq), None).await.unwrap();
        assert_eq!((reply.msg_key, reply.msg_time), (key("1_2_3"), Some(3)));
    }
    let whole = server.whole();
    let [first, second] = whole.as_slice() else {
        panic!("two requests, not {}", whole.len())
    };
    assert_eq!(first.path, "/v4/openim/sendmsg");
    assert_eq!(first.headers["content-type"], "application/json");
    assert_eq!(first.headers["content-length"], body(7).len().to_string());
    assert!(!first.headers.contains_key("transfer-encoding"));
    assert!(
        first.raw_query.contains("identifier=ad%20min%26%C3%BC&"),
        "{}",
        first.raw_query
    );
    let names: Vec<_> = first.query.keys().map(String::as_str).collect();
    assert_eq!(names, ["contenttype", "identifier", "random", "sdkappid", "usersig"]);
    assert_eq!(first.query["contenttype"], "json");
    assert_eq!(first.query["sdkappid"], "1400000000");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = user_sig::verify(&first.query["usersig"], &"marked-secret-key".into(), now).unwrap();
    assert_eq!(
        (claims.identifier.as_str(), claims.sdk_app_id),
        ("ad min&ü", SdkAppId(1_400_000_000))
    );
    assert!(first.query["random"].parse::<u32>().is_ok());
    assert_ne!(first.query["random"], second.query["random"]);
    assert_eq!(first.body["MsgSeq"], 7);
    assert_eq!(server.seen.lock().connections, 1, "the connection is kept");
}

#[tokio::test]
async fn a_batch_tells_who_failed() {
    let server = Server::start(|_, _| {
        json(
            r#"{"ActionStatus": "SomeError", "ErrorCode": 0, "ErrorInfo": "", "MsgKey": "1_2_3",
            "ErrorList": [{"To_Account": "rong", "ErrorCode": 70107}]}"#,
        )
    })
    .await;
    let reply = client(&server.url).batch_send(body(1), None).await.unwrap();
    assert_eq!(reply.msg_key, key("1_2_3"));
    assert_eq!(reply.failed.len(), 1);
    assert_eq!(
        (reply.failed[0].to.as_str(), reply.failed[0].code),
        ("rong", ErrorCode(70107))
    );
    assert_eq!(server.whole()[0].path, "/v4/openim/batchsendmsg");
}

#[tokio::test]
async fn a_refusal_has_its_code_class_text_command_and_random() {
    let server = Server::start(|_, _| fail(90012)).await;
    let error = client(&server.url).batch_send(body(1), None).await.unwrap_err();
    assert_eq!(
        (error.class, error.code),
        (ErrorClass::Recipient, Some(ErrorCode(90012)))
    );
    assert_eq!(
        (error.word().as_str(), error.text.as_str()),
        ("im-90012", "refused by the test")
    );
    assert_eq!((error.kind, error.http_status), (ImErrorKind::Refused, Some(200)));
    assert_eq!(error.url_random.unwrap().to_string(), server.whole()[0].query["random"]);
    assert!(!error.not_written());
    assert_eq!(server.whole().len(), 1, "nothing is repeated by itself");
}

#[tokio::test]
async fn importing_marking_and_revoking_ask_what_the_api_documents() {
    let server = Server::start(|_, _| json(OK)).await;
    let client = client(&server.url);
    client.import(body(1), None).await.unwrap();
    client
        .revoke(&account("a"), &account("b"), &key("1_2_3"), None)
        .await
        .unwrap();
    client.mark_read(&account("a"), &account("b")).await.unwrap();
    let asked: Vec<_> = server
        .whole()
        .into_iter()
        .map(|arrived| (arrived.path, arrived.body))
        .collect();
    assert_eq!(asked[0].0, "/v4/openim/importmsg");
    let revoke = json!({"From_Account": "a", "To_Account": "b", "MsgKey": "1_2_3"});
    assert_eq!(asked[1], ("/v4/openim/admin_msgwithdraw".to_owned(), revoke));
    let mark_read = json!({"Report_Account": "a", "Peer_Account": "b"});
    assert_eq!(asked[2], ("/v4/openim/admin_set_msg_read".to_owned(), mark_read));
}

#[tokio::test]
async fn a_message_that_was_revoked_before_is_already_done() {
    let server = Server::start(|_, before| fail(if before == 0 { 20023 } else { 20022 })).await;
    let client = client(&server.url);
    let (from, to) = (account("a"), account("b"));
    let again = client.revoke(&from, &to, &key("1_2_3"), None).await.unwrap_err();
    assert_eq!(again.class, ErrorClass::AlreadyDone);
    let never = client.revoke(&from, &to, &key("1_2_3"), None).await.unwrap_err();
    assert_eq!(
        (never.class, never.word().as_str()),
        (ErrorClass::Permanent, "im-20022")
    );
}

#[tokio::test]
async fn unread_counts_are_asked_for_ten_peers_at_a_time() {
    let server = Server::start(|arrived, _| {
        let Some(peers) = arrived.body["Peer_Account"].as_array() else {
            return json(r#"{"ActionStatus": "OK", "ErrorCode": 0, "AllC2CUnreadMsgNum": 16}"#);
        };
        let counts: Vec<_> = peers
            .iter()
            .map(|peer| json!({"Peer_Account": peer, "C2CUnreadMsgNum": 2}))
            .collect();
        Answer::Json(json!({"ActionStatus": "OK", "ErrorCode": 0, "C2CUnreadMsgNumList": counts}).to_string())
    })
    .await;
    let client = client(&server.url);
    let peers: Vec<AccountId> = (0..23).map(|n| account(&format!("p{n}"))).collect();
    assert_eq!(unread_calls(&peers).map(<[_]>::len).collect::<Vec<_>>(), [10, 10, 3]);
    assert_eq!(unread_calls(&[]).map(<[_]>::len).collect::<Vec<_>>(), [0]);

    let all = client.unread_all(&account("a"), &peers).await.unwrap();
    let counted: Vec<_> = all.peers.iter().map(|count| count.peer.clone()).collect();
    assert_eq!(counted, peers);
    assert_eq!(server.whole().len(), 3);
    assert_eq!(client.unread_all(&account("a"), &[]).await.unwrap().total, Some(16));

    let too_many = client.unread(&account("a"), &peers).await.unwrap_err();
    assert_eq!(
        (too_many.kind, too_many.class),
        (ImErrorKind::Request, ErrorClass::Permanent)
    );
    assert!(too_many.not_written());
    assert_eq!(server.whole().len(), 4, "a call that can't succeed isn't made");
}

fn query() -> HistoryQuery {
    HistoryQuery {
        operator: account("a"),
        peer: account("b"),
        min_time: 10,
        max_time: 90,
        max_count: 20,
    }
}

fn page(complete: u8, last: u64, seqs: &[u64]) -> Answer {
    let messages: Vec<_> = seqs
        .iter()
        .map(|n| json!({"From_Account": "a", "To_Account": "b", "MsgSeq": n, "MsgRandom": 5, "MsgKey": format!("{n}_5_{n}")}))
        .collect();
    Answer::Json(
        json!({"ActionStatus": "OK", "ErrorCode": 0, "Complete": complete, "MsgCnt": seqs.len(), "LastMsgTime": last,
            "LastMsgKey": format!("{last}_5_{last}"), "MsgList": messages})
        .to_string(),
    )
}

#[tokio::test]
async fn pulling_follows_the_pages_and_gives_each_message_once() {
    let server = Server::start(|arrived, _| match arrived.body["LastMsgKey"].as_str() {
        None => page(0, 70, &[70, 80]),
        Some("70_5_70") => page(0, 50, &[50, 60, 70]),
        _ => page(1, 20, &[20]),
    })
    .await;
    let messages: Vec<_> = client(&server.url).history(query()).collect().await;
    let seqs: Vec<_> = messages
        .into_iter()
        .map(|message| message.unwrap().seq.unwrap())
        .collect();
    assert_eq!(seqs, [70, 80, 50, 60, 20]);
    let whole = server.whole();
    let windows: Vec<_> = whole
        .iter()
        .map(|arrived| (&arrived.body["MinTime"], &arrived.body["MaxTime"]))
        .collect();
    assert_eq!(
        windows,
        [
            (&json!(10), &json!(90)),
            (&json!(10), &json!(70)),
            (&json!(10), &json!(50))
        ]
    );
}

#[tokio::test]
async fn pulling_from_a_service_that_repeats_its_page_ends_with_an_error() {
    let server = Server::start(|_, _| page(0, 70, &[70, 80])).await;
    let mut messages: Vec<_> = client(&server.url).history(query()).collect().await;
    let error = messages.pop().unwrap().unwrap_err();
    assert_eq!(
        (error.kind, error.class),
        (ImErrorKind::BadReply, ErrorClass::Transient)
    );
    assert_eq!(messages.len(), 2);
    assert_eq!(server.whole().len(), 2);
}

#[tokio::test]
async fn pulling_stops_at_the_first_error() {
    let server = Server::start(|_, before| {
        if before == 0 {
            page(0, 70, &[70, 80])
        } else {
            fail(91000)
        }
    })
    .await;
    let messages: Vec<_> = client(&server.url).history(query()).collect().await;
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[2].as_ref().unwrap_err().word(), "im-91000");
}
