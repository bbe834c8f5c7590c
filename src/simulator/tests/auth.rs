//! Who may call: the URL's parameters and the UserSig.

use super::*;

async fn code_of(bench: &Bench, url: String) -> i64 {
    let reply = bench.http.post(url).body("{}").send().await.unwrap();
    assert_eq!(reply.status(), 200, "API-level outcomes are HTTP 200");
    reply.json::<Value>().await.unwrap()["ErrorCode"].as_i64().unwrap()
}

#[tokio::test]
async fn every_wrong_url_has_its_code_and_none_is_counted_as_a_call() {
    let bench = Bench::new();
    let url = bench.url(Command::SendMsg);
    for (from, to, code) in [
        ("/openim/sendmsg", "/openim/sendmail", 60009),
        ("sdkappid=1400000000", "sdkappid=x", 60012),
        ("sdkappid=1400000000", "sdkappid=1400000001", 70020),
        ("identifier=administrator", "identifier=", 60004),
        ("identifier=administrator", "identifier=another", 70013),
        ("random=1", "random=4294967296", 60002),
        ("random=1", "other=1", 60002),
        ("contenttype=json", "contenttype=xml", 60002),
        (bench.sig.as_str(), "", 70002),
        (bench.sig.as_str(), "nonsense", 70003),
        (bench.sig.as_str(), &bench.sig[..bench.sig.len() - 12], 70003),
    ] {
        assert_eq!(code_of(&bench, url.replace(from, to)).await, code, "{to}");
    }
    let get = bench
        .http
        .get(&url)
        .send()
        .await
        .unwrap()
        .json::<Value>()
        .await
        .unwrap();
    assert_eq!(get["ErrorCode"], 60002, "POST only");
    let report = bench.sim.report();
    assert_eq!((report.calls, report.refused[&60002]), (0, 4));
    assert_eq!(
        code_of(&bench, url).await,
        90003,
        "with the right URL the body is looked at"
    );
}

#[tokio::test]
async fn a_user_sig_must_be_of_the_key_the_account_and_the_app_and_not_be_over() {
    let bench = Bench::new();
    let (app, now) = (SAMPLE_SDK_APP_ID, unix_now());
    for (identifier, sig, code) in [
        (ADMIN, sign(app, ADMIN, "another key", now, 600), 70009),
        (ADMIN, sign(app, ADMIN, SAMPLE_SECRET, now - 700, 600), 70001),
        (ADMIN, sign(app, "alice", SAMPLE_SECRET, now, 600), 70013),
        (ADMIN, sign(SdkAppId(7), ADMIN, SAMPLE_SECRET, now, 600), 70014),
        ("alice", sign(app, "alice", SAMPLE_SECRET, now, 600), 60010),
        (ADMIN, sign(app, ADMIN, SAMPLE_SECRET, now + 500, 600), 90003),
    ] {
        let url = bench.url(Command::SendMsg).replace(&bench.sig, &sig);
        let url = url.replace("identifier=administrator", &format!("identifier={identifier}"));
        assert_eq!(code_of(&bench, url).await, code, "{identifier} {code}");
    }
}

#[tokio::test]
async fn a_user_sig_that_was_verified_before_is_still_refused_once_it_is_over_or_for_another_account() {
    let bench = Bench::new();
    let url = bench.url(Command::SendMsg);
    for _ in 0..2 {
        assert_eq!(code_of(&bench, url.clone()).await, 90003);
    }
    assert_eq!(
        code_of(&bench, url.replace("identifier=administrator", "identifier=other")).await,
        70013
    );
    bench.sim.advance_clock(Duration::from_secs(602));
    assert_eq!(code_of(&bench, url).await, 70001);
}

#[tokio::test]
async fn a_new_secret_ends_the_user_sigs_of_the_old_one_and_apps_are_apart() {
    let bench = Bench::new();
    assert_eq!(code_of(&bench, bench.url(Command::SendMsg)).await, 90003);
    bench.sim.add_app(SAMPLE_SDK_APP_ID, ADMIN, "new".into());
    assert_eq!(code_of(&bench, bench.url(Command::SendMsg)).await, 70009);

    bench.sim.add_app(SdkAppId(7), "root@7", "seven".into());
    let url = format!(
        "{}/v4/openim/sendmsg?sdkappid=7&identifier=root%407&usersig={}&random=1&contenttype=json",
        bench.sim.base_url(),
        sign(SdkAppId(7), "root@7", "seven", unix_now(), 60)
    );
    let reply = bench
        .http
        .post(url)
        .body(message("bob", "hi").to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(reply.json::<Value>().await.unwrap()["ErrorCode"], 0);
    let got = bench.sim.messages_to("bob");
    assert_eq!(
        (got[0].sdk_app_id, got[0].sender.as_str()),
        (7, "root@7"),
        "the caller is the sender where none is given"
    );
}
