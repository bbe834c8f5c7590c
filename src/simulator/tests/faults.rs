//! What faults do to a call, to its answer and to its connection.

use std::io::{Read, Write};

use super::*;

/// Calls with one fault, and says what the client saw and whether the message arrived.
async fn meet(fault: Fault) -> (Result<Value, reqwest::Error>, bool) {
    let bench = Bench::new();
    bench.sim.inject(Command::SendMsg, fault, 1);
    let saw = bench.try_call(Command::SendMsg, &message("bob", "x")).await;
    let arrived = !bench.sim.messages_to("bob").is_empty();
    let arrival = bench.sim.arrivals(Command::SendMsg).remove(0);
    assert_eq!(arrival.fault, Some(fault.to_string()));
    assert_eq!(arrival.carried_out, arrived);
    assert_eq!(
        bench.code(Command::SendMsg, &message("bob", "after")).await,
        0,
        "the next call meets nothing"
    );
    (saw, arrived)
}

#[tokio::test]
async fn codes_are_answered_before_or_after_it_was_carried_out() {
    for (fault, code, carried) in [
        (Fault::Code(60008), 60008, false),
        (Fault::CodeAfter(60008), 60008, true),
        (Fault::Code(70001), 70001, false),
        (Fault::Recipient(70169), 70169, false),
    ] {
        let bench = Bench::new();
        bench.sim.inject(Command::SendMsg, fault, 1);
        assert_eq!(bench.code(Command::SendMsg, &message("bob", "x")).await, code);
        assert_eq!(!bench.sim.messages_to("bob").is_empty(), carried, "{fault}");
    }
    let (saw, arrived) = meet(Fault::NoMsgKey).await;
    let saw = saw.unwrap();
    assert!(saw["ErrorCode"] == 0 && saw.get("MsgKey").is_none() && arrived);
}

#[tokio::test]
async fn http_statuses_and_garbage_are_not_json() {
    for (fault, status, carried) in [
        (Fault::Http(502), 502, false),
        (Fault::HttpAfter(504), 504, true),
        (Fault::Garbage, 200, false),
        (Fault::GarbageAfter, 200, true),
    ] {
        let bench = Bench::new();
        bench.sim.inject(Command::SendMsg, fault, 1);
        let body = message("bob", "x").to_string();
        let reply = bench
            .http
            .post(bench.url(Command::SendMsg))
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(reply.status(), status);
        assert!(reply.json::<Value>().await.is_err());
        assert_eq!(!bench.sim.messages_to("bob").is_empty(), carried, "{fault}");
    }
}

#[tokio::test]
async fn connections_are_reset_or_cut_before_and_after_accepting() {
    for (fault, carried) in [
        (Fault::ResetBefore, false),
        (Fault::ResetAfter, true),
        (Fault::CutAfter, true),
        (Fault::CutMidway, true),
    ] {
        let (saw, arrived) = meet(fault).await;
        assert!(saw.is_err(), "{fault}");
        assert_eq!(arrived, carried, "{fault}");
    }
}

/// One call over a plain socket, whose end is told: the bytes that came, and whether it ended with a reset.
fn raw_call(bench: &Bench) -> (Vec<u8>, bool) {
    let mut stream = std::net::TcpStream::connect(bench.sim.address()).unwrap();
    stream.write_all(&raw_request(bench, &message("bob", "x"))).unwrap();
    let mut got = Vec::new();
    let reset = stream
        .read_to_end(&mut got)
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
    (got, reset)
}

fn raw_request(bench: &Bench, body: &Value) -> Vec<u8> {
    let url = bench.url(Command::SendMsg).replace(&bench.sim.base_url(), "");
    let body = body.to_string();
    format!(
        "POST {url} HTTP/1.1\r\nHost: sim\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
fn a_reset_is_a_reset_and_a_cut_is_an_orderly_end() {
    let bench = Bench::new();
    bench.sim.inject(Command::SendMsg, Fault::ResetAfter, 1);
    bench.sim.inject(Command::SendMsg, Fault::CutAfter, 1);
    bench.sim.inject(Command::SendMsg, Fault::CutMidway, 1);
    assert_eq!(raw_call(&bench), (Vec::new(), true));
    assert_eq!(raw_call(&bench), (Vec::new(), false));
    let (got, reset) = raw_call(&bench);
    assert!(
        !reset && got.starts_with(b"HTTP/1.1 200") && !got.ends_with(b"}"),
        "{}",
        String::from_utf8_lossy(&got)
    );
}

#[tokio::test]
async fn a_call_whose_body_arrived_whole_is_carried_out_even_if_the_client_is_gone() {
    let bench = Bench::new();
    bench.sim.set_latency(Duration::from_millis(50));
    for number in 0..200 {
        let mut stream = std::net::TcpStream::connect(bench.sim.address()).unwrap();
        stream
            .write_all(&raw_request(&bench, &message("bob", &format!("gone {number}"))))
            .unwrap();
        drop(stream);
    }
    until("all calls carried out", || bench.sim.messages_to("bob").len() == 200).await;
    let mut half = std::net::TcpStream::connect(bench.sim.address()).unwrap();
    let request = raw_request(&bench, &message("bob", "half"));
    half.write_all(&request[..request.len() - 1]).unwrap();
    drop(half);
    bench.send("bob", "after").await;
    assert_eq!(
        bench.sim.messages_to("bob").len(),
        201,
        "a body that is cut short is not a call"
    );
}

#[tokio::test]
async fn an_answer_that_never_comes_is_held_until_the_client_goes() {
    for (fault, carried) in [(Fault::Never, true), (Fault::NeverBefore, false)] {
        let bench = Bench::new();
        bench.sim.inject(Command::SendMsg, fault, 1);
        let body = message("bob", "x").to_string();
        let request = bench
            .http
            .post(bench.url(Command::SendMsg))
            .body(body)
            .timeout(Duration::from_millis(300))
            .send();
        assert!(request.await.unwrap_err().is_timeout());
        assert_eq!(!bench.sim.messages_to("bob").is_empty(), carried);
        assert!(!bench.sim.arrivals(Command::SendMsg)[0].answered);
    }
}

#[test]
fn a_held_connection_is_closed_once_its_client_has_closed_its_own_side() {
    let bench = Bench::new();
    bench.sim.inject(Command::SendMsg, Fault::Never, 1);
    let mut stream = std::net::TcpStream::connect(bench.sim.address()).unwrap();
    stream.write_all(&raw_request(&bench, &message("bob", "x"))).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the simulator noticed and closed");
}

#[tokio::test]
async fn a_late_answer_is_to_a_call_that_was_carried_out_at_once() {
    let bench = Bench::new();
    bench
        .sim
        .inject(Command::SendMsg, Fault::Late(Duration::from_millis(400)), 1);
    let started = std::time::Instant::now();
    let (_, ()) = tokio::join!(bench.send("bob", "x"), async {
        until("it was carried out", || !bench.sim.messages_to("bob").is_empty()).await;
    });
    assert!(started.elapsed() >= Duration::from_millis(400));
    let arrival = bench.sim.arrivals(Command::SendMsg).remove(0);
    assert!(
        bench.sim.messages_to("bob")[0].at - arrival.at < 400_000,
        "accepted before the answer was due"
    );
}

#[tokio::test]
async fn a_call_that_is_accepted_late_is_carried_out_without_its_client() {
    let bench = Bench::new();
    bench
        .sim
        .inject(Command::SendMsg, Fault::AcceptLate(Duration::from_millis(300)), 1);
    let body = message("bob", "x").to_string();
    let request = bench
        .http
        .post(bench.url(Command::SendMsg))
        .body(body)
        .timeout(Duration::from_millis(50))
        .send();
    assert!(request.await.unwrap_err().is_timeout());
    until("it was carried out after all", || {
        !bench.sim.messages_to("bob").is_empty()
    })
    .await;
    let arrival = bench.sim.arrivals(Command::SendMsg).remove(0);
    assert!(bench.sim.messages_to("bob")[0].at - arrival.at >= 300_000);
}

#[tokio::test]
async fn a_rate_is_met_in_about_that_share_of_calls_and_can_be_ended() {
    let bench = Bench::new();
    bench.sim.set_fault_rate(Command::SendMsg, Fault::Code(91000), 0.9);
    bench.sim.set_fault_rate(Command::SendMsg, Fault::Code(91000), 0.2);
    let mut failed = 0;
    for number in 0..500 {
        failed += usize::from(bench.code(Command::SendMsg, &message("bob", &number.to_string())).await == 91000);
    }
    assert!((60..140).contains(&failed), "{failed} of 500 at 20 %");
    let report = &bench.sim.report().faults;
    assert_eq!(
        (report.len(), report[0].matched, report[0].fired),
        (1, 500, failed as u64)
    );
    bench.sim.set_fault_rate(Command::SendMsg, Fault::Code(91000), 0.0);
    assert_eq!(bench.code(Command::SendMsg, &message("bob", "fine")).await, 0);
    assert!(bench.sim.report().faults.is_empty());
}

#[tokio::test]
async fn credentials_can_be_refused_for_a_time() {
    let bench = Bench::new();
    bench.sim.add_fault("*:code:70009=1,for=30s".parse().unwrap());
    assert_eq!(bench.code(Command::SendMsg, &message("bob", "x")).await, 70009);
    assert_eq!(
        bench.code(Command::GetUnreadNum, &json!({"To_Account": "bob"})).await,
        70009
    );
    bench.sim.advance_clock(Duration::from_secs(30));
    assert_eq!(bench.code(Command::SendMsg, &message("bob", "x")).await, 0);
}
