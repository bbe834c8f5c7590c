//! batchsendmsg.

use super::*;

fn batch(to: &[&str], text: &str) -> Value {
    message(json!(to), text)
}

#[tokio::test]
async fn the_answer_has_one_of_three_shapes() {
    let bench = Bench::new();
    let all = bench.call(Command::BatchSendMsg, &batch(&["a", "b"], "all")).await;
    assert_eq!(
        (
            all["ActionStatus"].as_str(),
            all["ErrorCode"].as_i64(),
            all.get("ErrorList")
        ),
        (Some("OK"), Some(0), None)
    );
    assert_eq!(all.get("MsgTime"), None);

    let some = bench
        .call(Command::BatchSendMsg, &batch(&["a", "unknown_1", "b"], "some"))
        .await;
    assert_eq!(
        (some["ActionStatus"].as_str(), some["ErrorCode"].as_i64()),
        (Some("SomeError"), Some(0))
    );
    assert_eq!(
        some["ErrorList"],
        json!([{"To_Account": "unknown_1", "ErrorCode": 70107}])
    );

    let none = bench
        .call(Command::BatchSendMsg, &batch(&["unknown_1", "missing_2"], "none"))
        .await;
    assert_eq!(
        (none["ActionStatus"].as_str(), none["ErrorCode"].as_i64()),
        (Some("FAIL"), Some(90012))
    );
    assert_eq!((none.get("MsgKey"), none.get("ErrorList")), (None, None));

    for (name, text, reply) in [("a", "all", &all), ("b", "some", &some)] {
        let got = bench
            .sim
            .messages_to(name)
            .into_iter()
            .find(|message| message.text == text)
            .unwrap();
        assert_eq!(
            got.key,
            reply["MsgKey"].as_str().unwrap(),
            "all recipients share the key"
        );
        assert!(got.batch);
    }
    assert_eq!(bench.sim.delivered_total(), 4);
}

#[tokio::test]
async fn up_to_500_recipients_are_taken_and_wrong_lists_refused() {
    let bench = Bench::new();
    let names: Vec<String> = (0..501).map(|n| format!("user_{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(bench.code(Command::BatchSendMsg, &batch(&names, "x")).await, 90011);
    assert_eq!(bench.code(Command::BatchSendMsg, &batch(&names[..500], "x")).await, 0);
    assert_eq!(bench.sim.delivered_total(), 500);
    for to in [json!("bob"), json!([]), json!(["bob", 5]), json!(["bob", ""])] {
        assert_eq!(bench.code(Command::BatchSendMsg, &message(to, "x")).await, 90003);
    }
    assert_eq!(
        bench
            .code(Command::BatchSendMsg, &batch(&["a"], &"x".repeat(12_288)))
            .await,
        90055
    );
}

#[tokio::test]
async fn a_repeat_is_dropped_for_each_recipient_by_itself() {
    let bench = Bench::new();
    let first = bench.call(Command::BatchSendMsg, &batch(&["a", "b"], "x")).await;
    bench.sim.advance_clock(Duration::from_secs(10));
    let all_again = bench.call(Command::BatchSendMsg, &batch(&["b", "a"], "x")).await;
    assert_eq!(all_again["MsgKey"], first["MsgKey"]);
    let one_new = bench.call(Command::BatchSendMsg, &batch(&["a", "c"], "x")).await;
    assert_ne!(one_new["MsgKey"], first["MsgKey"]);
    assert_eq!((bench.sim.delivered_total(), bench.sim.report().deduplicated), (3, 3));
}

#[tokio::test]
async fn single_recipients_fail_with_the_code_that_a_fault_gives_them() {
    let bench = Bench::new();
    let rule = FaultRule::new(Some(Command::BatchSendMsg), Fault::Recipient(70169), When::Next(1));
    bench.sim.add_fault(rule.to(AccountMatch::Exactly("b".to_owned())));
    let reply = bench.call(Command::BatchSendMsg, &batch(&["a", "b", "c"], "x")).await;
    assert_eq!(reply["ErrorList"], json!([{"To_Account": "b", "ErrorCode": 70169}]));
    assert!(bench.sim.messages_to("b").is_empty());
    assert_eq!(
        bench.call(Command::BatchSendMsg, &batch(&["b"], "x")).await["ActionStatus"],
        "OK"
    );
}

#[tokio::test]
async fn a_batch_can_be_accepted_in_part_without_an_answer() {
    let bench = Bench::new();
    bench.sim.inject(Command::BatchSendMsg, Fault::PartialCut(2), 1);
    assert!(
        bench
            .try_call(Command::BatchSendMsg, &batch(&["a", "b", "c"], "x"))
            .await
            .is_err()
    );
    let reached: Vec<_> = bench
        .sim
        .messages()
        .into_iter()
        .map(|message| message.recipient)
        .collect();
    assert_eq!(reached, ["a", "b"]);
    let arrival = &bench.sim.arrivals(Command::BatchSendMsg)[0];
    assert_eq!(
        (arrival.recipients, arrival.carried_out, arrival.answered),
        (3, true, false)
    );
}
