//! Spans for an OpenTelemetry collector, over OTLP. Off unless an endpoint is configured.
//!
//! Trace ids are the same as in the logs and in `traceparent`: a span of this process continues the trace of the work at
//! hand ([`crate::trace`]). Export has a thread and a bounded queue of its own; a collector that is away costs spans, never requests.

use std::sync::OnceLock;

use anyhow::Context as _;
use axum::http::HeaderValue;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::registry::LookupSpan;

/// Set once spans are exported.
static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// A layer that exports spans to the collector at `endpoint` (OTLP over HTTP, such as `http://collector:4318`).
///
/// # Errors
/// When the endpoint cannot be used. Whether anybody listens there is not asked.
pub(crate) fn layer<S>(
    service: &'static str,
    endpoint: &str,
) -> anyhow::Result<OpenTelemetryLayer<S, opentelemetry_sdk::trace::Tracer>>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build();
    let tracer = provider.tracer(service);
    let _ = PROVIDER.set(provider);
    Ok(tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false))
}

/// Makes `span` continue the span `parent_id` of a trace. Does nothing unless spans are exported.
pub(crate) fn follow(span: &Span, trace_id: u128, parent_id: u64, is_sampled: bool) {
    if PROVIDER.get().is_none() {
        return;
    }
    let (trace_id, parent_id) = (TraceId::from(trace_id), SpanId::from(parent_id));
    // The exporter samples as its parent did: a caller that records nothing has nothing recorded here.
    let flags = if is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let remote = SpanContext::new(trace_id, parent_id, flags, true, TraceState::default());
    // Refused only by a span that no layer of ours knows: then there is nothing to export.
    let _ = span.set_parent(Context::new().with_remote_span_context(remote));
}

/// The `traceparent` of the span at hand, if it is exported.
pub(crate) fn current_header() -> Option<HeaderValue> {
    PROVIDER.get()?;
    let context = Span::current().context();
    let span = context.span().span_context().clone();
    if !span.is_valid() {
        return None;
    }
    let flags = u8::from(span.is_sampled());
    HeaderValue::from_str(&format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id())).ok()
}

/// Sends what is queued, before the process ends. Waits for the collector; not for asynchronous code.
pub(crate) fn flush() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown()
    {
        tracing::warn!(%error, "the last spans were not exported");
    }
}
