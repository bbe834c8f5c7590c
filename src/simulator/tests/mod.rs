//! The simulator over real HTTP: each rule by a raw client that knows nothing of our own one.

mod auth;
mod batch;
mod control;
mod faults;
mod history;
mod limits;
mod manage;
mod send;

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::im::user_sig;

const ADMIN: &str = "administrator";

/// A UserSig of the sample app that is valid now.
fn sig(identifier: &str) -> String {
    sign(SAMPLE_SDK_APP_ID, identifier, SAMPLE_SECRET, unix_now(), 600)
}

fn sign(app: SdkAppId, identifier: &str, secret: &str, time: u64, expire: u64) -> String {
    user_sig::sign(app, identifier, &secret.into(), time, expire)
        .expose()
        .to_owned()
}

fn unix_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A simulator and a client of it.
struct Bench {
    sim: Simulator,
    http: reqwest::Client,
    sig: String,
}

impl Bench {
    fn new() -> Self {
        Self::with(SimulatorOptions {
            limits: Limits::none(),
            ..SimulatorOptions::default()
        })
    }

    fn with(options: SimulatorOptions) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .retry(reqwest::retry::never())
            .build()
            .unwrap();
        Self {
            sim: Simulator::start(options).unwrap(),
            http,
            sig: sig(ADMIN),
        }
    }

    /// The URL of a command with valid parameters.
    fn url(&self, command: Command) -> String {
        format!(
            "{}/v4/openim/{command}?sdkappid={SAMPLE_SDK_APP_ID}&identifier={ADMIN}&usersig={}&random=1&contenttype=json",
            self.sim.base_url(),
            self.sig
        )
    }

    async fn try_call(&self, command: Command, body: &Value) -> Result<Value, reqwest::Error> {
        self.http
            .post(self.url(command))
            .body(body.to_string())
            .send()
            .await?
            .json()
            .await
    }

    async fn call(&self, command: Command, body: &Value) -> Value {
        self.try_call(command, body).await.unwrap()
    }

    /// Calls and gives the `ErrorCode`.
    async fn code(&self, command: Command, body: &Value) -> i64 {
        self.call(command, body).await["ErrorCode"].as_i64().unwrap()
    }

    /// Sends a text and gives its key.
    async fn send(&self, to: &str, text: &str) -> String {
        let reply = self.call(Command::SendMsg, &message(to, text)).await;
        assert_eq!(reply["ErrorCode"], 0, "{reply}");
        reply["MsgKey"].as_str().unwrap().to_owned()
    }

    /// The texts that a recipient got.
    fn texts_to(&self, to: &str) -> Vec<String> {
        self.sim
            .messages_to(to)
            .into_iter()
            .map(|message| message.text)
            .collect()
    }
}

/// The body of a sendmsg; the random differs by text.
fn message(to: impl Into<Value>, text: &str) -> Value {
    let random = text
        .bytes()
        .fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    json!({
        "To_Account": to.into(),
        "MsgSeq": 5,
        "MsgRandom": random,
        "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": text}}],
    })
}

/// A body with one field changed.
fn with(mut body: Value, field: &str, value: impl Into<Value>) -> Value {
    body[field] = value.into();
    body
}

/// A body without a field.
fn without(mut body: Value, field: &str) -> Value {
    body.as_object_mut().unwrap().remove(field);
    body
}

/// Waits for a fact, with a deadline that only a broken simulator reaches.
async fn until(what: &str, fact: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !fact() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
