//! Traces, as a collector gets them: a receiver of OTLP over HTTP takes what a worker exports.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use lapin::types::{AMQPValue, FieldTable, LongString};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
};
use prost::Message as _;
use serde_json::json;

use crate::{
    support::{Worker, World, eventually},
    worker::{LONG, send, settled},
};

/// Whatever was exported, decoded.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Listens on loopback until the test ends.
    async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/v1/traces", post(take))
            .with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (collector, address)
    }

    fn spans(&self, name: &str) -> Vec<Span> {
        let spans = self.0.lock().unwrap();
        spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    /// Waits for so many spans of a name.
    async fn wait_for(&self, name: &str, count: usize) -> Vec<Span> {
        eventually(LONG, &format!("{count} spans {name} are exported"), || async {
            let spans = self.spans(name);
            (spans.len() >= count).then_some(spans)
        })
        .await
    }
}

async fn take(State(collector): State<Collector>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let resources = request.resource_spans.into_iter();
    let spans = resources
        .flat_map(|resource| resource.scope_spans)
        .flat_map(|scope| scope.spans);
    collector.0.lock().unwrap().extend(spans);
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// A job's headers, with the trace of that number.
fn traced(trace: u8) -> lapin::BasicProperties {
    let parent = format!("00-{}-b7ad6b7169203331-01", format!("{trace:02x}").repeat(16));
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(LongString::from(parent)));
    lapin::BasicProperties::default().with_headers(headers)
}

async fn traced_world() -> (World, Collector) {
    let (collector, address) = Collector::start().await;
    let mut world = World::new().await;
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    // Exported soon, so that the test doesn't wait five seconds for each look.
    world.set("OTEL_BSP_SCHEDULE_DELAY", "100");
    (world, collector)
}

#[tokio::test]
async fn a_job_continues_its_producers_trace_and_each_attempt_is_a_child_of_it_also_the_tables() {
    let (world, collector) = traced_world().await;
    // Refused once: the second attempt is the table's.
    world.simulator.inject(
        im_dispatcher::domain::Command::SendMsg,
        im_dispatcher::simulator::Fault::Code(60_007),
        1,
    );
    let worker = Worker::start(&world).await;
    let job = send("traced", "alice").to_string();
    world.broker.publish_with("high", job.as_bytes(), traced(0xab)).await;
    settled(&world, "traced").await;
    let attempts = collector.wait_for("sendmsg", 2).await;
    let queue = format!("process {}.jobs.high", world.namespace);
    let delivery = collector.wait_for(&queue, 1).await.remove(0);
    let row = collector.wait_for("work sendmsg", 1).await.remove(0);
    for span in attempts.iter().chain([&delivery, &row]) {
        assert_eq!(span.trace_id, [0xab; 16], "{}", span.name);
    }
    for span in [&delivery, &row] {
        assert_eq!(
            span.parent_span_id,
            0xb7ad_6b71_6920_3331_u64.to_be_bytes(),
            "{}",
            span.name
        );
        assert_eq!(attribute(span, "im.job.id"), "traced");
    }
    let parents: BTreeSet<Vec<u8>> = attempts.iter().map(|span| span.parent_span_id.clone()).collect();
    assert_eq!(parents, [delivery.span_id.clone(), row.span_id.clone()].into());
    let failed: Vec<String> = attempts.iter().map(|span| attribute(span, "im.error_code")).collect();
    assert!(failed.contains(&"im-60007".to_owned()), "{failed:?}");
    drop(worker);
}

#[tokio::test]
async fn a_batchs_calls_are_children_of_its_job() {
    let (world, collector) = traced_world().await;
    let worker = Worker::start(&world).await;
    let job = json!({"type": "batch_send", "id": "batch", "to": ["alice", "bob"], "message": {"text": "SECRET TEXT"}});
    world
        .broker
        .publish_with("bulk", job.to_string().as_bytes(), traced(0xcd))
        .await;
    settled(&world, "batch").await;
    let call = collector.wait_for("batchsendmsg", 1).await.remove(0);
    assert_eq!(call.trace_id, [0xcd; 16]);
    assert_eq!(attribute(&call, "im.recipients"), "2");
    let row = collector.wait_for("work batchsendmsg", 1).await.remove(0);
    assert_eq!(call.parent_span_id, row.span_id);
    assert_eq!(attribute(&row, "im.job.id"), "batch");
    // What is left is exported at the end; of no span is anything known that only the job should tell.
    assert!(worker.stop().await.success());
    let spans = collector.0.lock().unwrap().clone();
    let everything = format!("{spans:?}");
    for secret in [
        "SECRET TEXT",
        "alice",
        "bob",
        "usersig",
        im_dispatcher::simulator::SAMPLE_SECRET,
    ] {
        assert!(!everything.contains(secret), "{secret} is in {everything}");
    }
}

#[tokio::test]
async fn a_shared_call_is_linked_to_each_of_its_jobs() {
    let (mut world, collector) = traced_world().await;
    // One send a second alone, so that the others share calls.
    world.set("IM_DISPATCHER__APPS__DEFAULT__LIMITS__SENDMSG", "1");
    let worker = Worker::start(&world).await;
    for n in 1..=20_u8 {
        let job = json!({"type": "send", "id": format!("job-{n}"), "to": format!("user{n}"), "coalesce": true,
                         "message": {"text": "the same"}});
        world
            .broker
            .publish_with("normal", job.to_string().as_bytes(), traced(n))
            .await;
    }
    for n in 1..=20 {
        settled(&world, &format!("job-{n}")).await;
    }
    let shared = collector.wait_for("shared call", 1).await;
    let queue = format!("process {}.jobs.normal", world.namespace);
    let jobs = collector.wait_for(&queue, 20).await;
    let known: BTreeSet<(Vec<u8>, Vec<u8>)> = jobs.into_iter().map(|span| (span.trace_id, span.span_id)).collect();
    let mut linked = BTreeSet::new();
    for call in &shared {
        assert_eq!(attribute(call, "im.members"), call.links.len().to_string());
        assert!(call.links.len() > 1, "a call of one isn't shared");
        for link in &call.links {
            let job = (link.trace_id.clone(), link.span_id.clone());
            assert!(known.contains(&job), "a link to no job's span");
            linked.insert(job);
        }
    }
    assert!(linked.len() > 1);
    // The call itself is an attempt within it.
    let attempts = collector.wait_for("batchsendmsg", shared.len()).await;
    for call in &shared {
        assert!(attempts.iter().any(|attempt| attempt.parent_span_id == call.span_id));
    }
    drop(worker);
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() {
    let mut world = World::new().await;
    // Nobody listens there.
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let worker = Worker::start(&world).await;
    world.broker.publish("high", &send("job", "alice")).await;
    settled(&world, "job").await;
    assert!(worker.stop().await.success());
}
