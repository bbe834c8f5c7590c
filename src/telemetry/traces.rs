//! Traces by OpenTelemetry: a span for each time that a job is worked on, one for each call, exported by OTLP over HTTP.
//!
//! A job's span continues the producer's trace, from the `traceparent` of its AMQP headers; what the table takes up later
//! continues the same one. Spans say ids, names and codes, never a message's text, an account or anything secret. They are
//! made through OpenTelemetry's own API and not as spans of `tracing`, so that neither the log's filter nor its lines have to
//! do with them, and nothing is made, not even the attributes, where no endpoint is set.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::{
    Context, KeyValue,
    context::FutureExt as _,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Link, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use url::Url;

pub use opentelemetry::{Value as SpanValue, trace::SpanContext};

use crate::{
    config::OtelSettings,
    domain::{Command, Lane},
};

/// How long one export may take; what can't be exported is dropped, and no job waits for it.
const EXPORT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for what is still to be exported.
const SHUTDOWN: Duration = Duration::from_secs(3);
/// A shared call has a link for each of its members, of whom a call takes 500.
const MOST_LINKS: u32 = 500;

/// Why traces could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Neither the HTTP client nor the exporter is to be had with these settings.
    #[error("the exporter of traces can't be set up (otel.endpoint)")]
    Exporter(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Makes spans, or nothing at all.
#[derive(Clone, Default)]
pub struct Traces(Option<SdkTracer>);

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Traces").field(&self.0.is_some()).finish()
    }
}

/// Exports spans until it is told to end.
#[derive(Debug)]
pub struct TraceExport(SdkTracerProvider);

impl TraceExport {
    /// Exports what is left, for three seconds at most.
    pub async fn end(self) {
        let ended = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(SHUTDOWN)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last traces could not be exported"),
            Err(error) => tracing::warn!(%error, "the exporter of traces ended badly"),
        }
    }
}

/// A span under way, or nothing. Ends when it is dropped.
#[derive(Default)]
pub struct Active(Option<Context>);

impl Active {
    /// Runs a future within the span: what it begins is a child of it. Made here, and boxed only where there is a span: the
    /// way of a job is some kilobytes of future, which is neither copied nor doubled for what is mostly off.
    pub async fn within<F: Future>(&self, make: impl FnOnce() -> F) -> F::Output {
        match &self.0 {
            None => make().await,
            Some(context) => Box::pin(make()).with_context(context.clone()).await,
        }
    }

    /// Adds what became known on the way. `attributes` is asked only where there is a span.
    pub fn describe<const N: usize>(&self, attributes: impl FnOnce() -> [(&'static str, SpanValue); N]) {
        if let Some(context) = &self.0 {
            describe(context, attributes());
        }
    }

    /// Notes an error by its stable word and its class.
    pub fn failed(&self, error: impl FnOnce() -> (String, &'static str)) {
        if let Some(context) = &self.0 {
            let (word, class) = error();
            describe(
                context,
                [("im.error_code", word.clone().into()), ("error.type", class.into())],
            );
            context.span().set_status(Status::error(word));
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

fn describe<const N: usize>(context: &Context, attributes: [(&'static str, SpanValue); N]) {
    context
        .span()
        .set_attributes(attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)));
}

/// The headers that carry a trace (W3C Trace Context).
struct Carrier {
    traceparent: Option<String>,
    tracestate: Option<String>,
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent.as_deref(),
            "tracestate" => self.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Traces {
    /// Starts exporting, if the settings name an endpoint. Must be called inside a runtime, on which exports then run.
    pub fn start(settings: &OtelSettings, namespace: &str) -> Result<(Self, Option<TraceExport>), TraceError> {
        let Some(endpoint) = &settings.endpoint else {
            return Ok((Self(None), None));
        };
        let client = reqwest::Client::builder()
            .timeout(EXPORT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| TraceError::Exporter(error.into()))?;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(OnRuntime {
                client,
                runtime: tokio::runtime::Handle::current(),
            })
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(traces_url(endpoint))
            .with_timeout(EXPORT)
            .build()
            .map_err(|error| TraceError::Exporter(error.into()))?;
        let resource = Resource::builder()
            .with_service_name(settings.service_name.clone())
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.namespace", namespace.to_owned()),
            ])
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            // Whoever began the trace has decided; only our own beginnings are sampled.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                settings.sample,
            ))))
            .with_max_links_per_span(MOST_LINKS)
            .with_resource(resource)
            .build();
        Ok((
            Self(Some(provider.tracer("im-dispatcher"))),
            Some(TraceExport(provider)),
        ))
    }

    /// Whether there are spans at all: what costs something is asked only then.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A delivery of a queue, whose headers `header` tells.
    pub fn delivery(&self, queue: &str, lane: Lane, header: impl Fn(&str) -> Option<String>) -> Active {
        self.begin(|| {
            let attributes = vec![
                KeyValue::new("messaging.system", "rabbitmq"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new("messaging.destination.name", queue.to_owned()),
                KeyValue::new("im.lane", lane.as_str()),
            ];
            let builder = SpanBuilder::from_name(format!("process {queue}")).with_kind(SpanKind::Consumer);
            (builder.with_attributes(attributes), continued(header))
        })
    }

    /// A row of the table that is taken up, of a job that had those headers.
    pub fn work(&self, kind: &'static str, job: &str, lane: Lane, header: impl Fn(&str) -> Option<String>) -> Active {
        self.begin(|| {
            let attributes = vec![
                KeyValue::new("im.job.id", job.to_owned()),
                KeyValue::new("im.lane", lane.as_str()),
            ];
            let builder = SpanBuilder::from_name(format!("work {kind}")).with_kind(SpanKind::Consumer);
            (builder.with_attributes(attributes), continued(header))
        })
    }

    /// A call for several jobs, with a link to each of them.
    pub fn shared_call(&self, app: &str, jobs: impl IntoIterator<Item = SpanContext>) -> Active {
        self.begin(|| {
            let links: Vec<Link> = jobs.into_iter().map(Link::with_context).collect();
            let attributes = vec![
                KeyValue::new("im.app", app.to_owned()),
                KeyValue::new("im.members", i64::try_from(links.len()).unwrap_or(i64::MAX)),
            ];
            let builder = SpanBuilder::from_name("shared call").with_kind(SpanKind::Internal);
            (builder.with_attributes(attributes).with_links(links), Context::new())
        })
    }

    /// An attempt: a call of the IM API, within whatever is under way.
    pub fn attempt(&self, command: Command, app: &str, lane: Lane, recipients: u32) -> Active {
        self.begin(|| {
            let attributes = vec![
                KeyValue::new("im.command", command.as_str()),
                KeyValue::new("im.app", app.to_owned()),
                KeyValue::new("im.lane", lane.as_str()),
                KeyValue::new("im.recipients", i64::from(recipients)),
            ];
            let builder = SpanBuilder::from_name(command.as_str()).with_kind(SpanKind::Client);
            (builder.with_attributes(attributes), Context::current())
        })
    }

    /// The span that is under way here, for a link to it.
    pub fn here(&self) -> Option<SpanContext> {
        self.is_on()
            .then(|| Context::current().span().span_context().clone())
            .filter(SpanContext::is_valid)
    }

    fn begin(&self, what: impl FnOnce() -> (SpanBuilder, Context)) -> Active {
        Active(self.0.as_ref().map(|tracer| {
            let (builder, parent) = what();
            let span = tracer.build_with_context(builder, &parent);
            parent.with_span(span)
        }))
    }
}

/// The trace that a job's headers continue, or none.
fn continued(header: impl Fn(&str) -> Option<String>) -> Context {
    let carrier = Carrier {
        traceparent: header("traceparent"),
        tracestate: header("tracestate"),
    };
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

/// Where traces go: the endpoint is the base of all signals, as OpenTelemetry defines it for HTTP.
fn traces_url(endpoint: &Url) -> String {
    format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'))
}

/// Our HTTP client, for the exporter's own thread, on which no runtime turns.
#[derive(Debug)]
struct OnRuntime {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let request = reqwest::Request::try_from(request)?;
            let reply = client.execute(request).await?;
            let (status, headers) = (reply.status(), reply.headers().clone());
            let mut response = Response::new(reply.bytes().await?);
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok::<_, reqwest::Error>(response)
        });
        Ok(sent.await?.map_err(reqwest::Error::without_url)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_where_traces_are_off() {
        let traces = Traces::default();
        let header = |_: &str| -> Option<String> { panic!("a header was read") };
        let job = traces.delivery("im.jobs.high", Lane::High, header);
        job.describe(|| -> [(&'static str, SpanValue); 0] { panic!("an attribute was made") });
        let members = std::iter::from_fn(|| -> Option<SpanContext> { panic!("a link was made") });
        drop(traces.shared_call("default", members));
        assert!(traces.here().is_none());
    }

    #[test]
    fn a_jobs_trace_is_that_of_its_traceparent() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = continued(|name| (name == "traceparent").then(|| parent.to_owned()));
        let span = context.span().span_context().clone();
        assert_eq!(span.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span.span_id().to_string(), "b7ad6b7169203331");
        assert!(span.is_sampled() && span.is_remote());
        for wrong in ["", "00-0-0-01", "nothing"] {
            let context = continued(|name| (name == "traceparent").then(|| wrong.to_owned()));
            assert!(!context.span().span_context().is_valid(), "{wrong}");
        }
    }

    #[test]
    fn traces_go_below_the_endpoint() {
        for endpoint in ["http://127.0.0.1:4318", "http://127.0.0.1:4318/"] {
            let url = Url::parse(endpoint).unwrap();
            assert_eq!(traces_url(&url), "http://127.0.0.1:4318/v1/traces");
        }
        let below = Url::parse("https://collector/otlp").unwrap();
        assert_eq!(traces_url(&below), "https://collector/otlp/v1/traces");
    }
}
