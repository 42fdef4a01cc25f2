//! The trace of the request at hand: W3C `traceparent` in, out, and on to the services that are called.

use std::{fmt, future::Future, sync::Arc};

use axum::http::{HeaderMap, HeaderValue};
use tracing::Span;
use uuid::Uuid;

use crate::otlp;

/// Name of the W3C header.
pub const TRACEPARENT: &str = "traceparent";
/// The flag by which a caller says that the trace is recorded; version 00 knows no other.
const SAMPLED: u8 = 1;

tokio::task_local! {
    static CURRENT: Trace;
}

/// Where in a trace this process is, and which path was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    trace_id: u128,
    span_id: u64,
    /// The span that this one continues, if there is one.
    parent_id: Option<u64>,
    /// Whether spans of this trace are exported, as the caller decided.
    is_sampled: bool,
    path: Arc<str>,
}

impl Trace {
    /// A new trace, for work that no request began; `path` names the work.
    #[must_use]
    pub fn begin(path: &str) -> Self {
        // Version 4 UUIDs are random but for six bits, which is what a trace id has to be.
        let [span_id, _] = split(Uuid::new_v4().as_u128());
        Self {
            trace_id: Uuid::new_v4().as_u128(),
            span_id,
            parent_id: None,
            is_sampled: true,
            path: path.into(),
        }
    }

    /// The trace that the caller's `traceparent` continues; a new one where there is none, or it cannot be read.
    #[must_use]
    pub fn of_request(headers: &HeaderMap, path: &str) -> Self {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::of_header(value.to_str().ok(), path),
            _ => Self::begin(path),
        }
    }

    /// The trace that this `traceparent` continues; a new one where there is none, or it cannot be read.
    #[must_use]
    pub fn of_header(traceparent: Option<&str>, path: &str) -> Self {
        let mut trace = Self::begin(path);
        if let Some(parent) = traceparent.and_then(parse) {
            trace.trace_id = parent.trace_id;
            trace.parent_id = Some(parent.span_id);
            trace.is_sampled = parent.is_sampled;
        }
        trace
    }

    /// The trace with this id, for work that goes on after its request has ended; a new one if that is no trace id.
    #[must_use]
    pub fn resume(trace_id: Option<&str>, path: &str) -> Self {
        let mut trace = Self::begin(path);
        if let Some(trace_id) =
            trace_id.and_then(|id| u128::from_str_radix(id, 16).ok()).filter(|id| *id != 0)
        {
            trace.trace_id = trace_id;
        }
        trace
    }

    /// The trace id: 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The path that was called.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes `span` a part of this trace: it continues the caller's span, or one that stands for the work itself. Does nothing
    /// unless spans are exported.
    pub fn adopt(&self, span: &Span) {
        otlp::follow(span, self.trace_id, self.parent_id.unwrap_or(self.span_id), self.is_sampled);
    }

    /// The header that continues this trace elsewhere.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }
}

/// The trace of the task at hand, if it has one.
#[must_use]
pub fn current() -> Option<Trace> {
    CURRENT.try_with(Clone::clone).ok()
}

/// What a call to another service carries, so that the trace goes on there. While spans are exported it names the span
/// at hand, so that the other service's spans hang below it.
#[must_use]
pub fn outgoing() -> Option<HeaderValue> {
    otlp::current_header().or_else(|| current().map(|trace| trace.header()))
}

/// Runs `work` as a part of `trace`. A task that outlives its request is spawned with the request's trace so.
pub async fn scope<F: Future>(trace: Trace, work: F) -> F::Output {
    CURRENT.scope(trace, work).await
}

fn split(id: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = id.to_be_bytes();
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1), u64::from_be_bytes(rest)]
}

/// What a `traceparent` says.
struct Parent {
    trace_id: u128,
    span_id: u64,
    is_sampled: bool,
}

/// Reads a version 00 header. Zero ids are invalid by the standard.
fn parse(header: &str) -> Option<Parent> {
    let mut parts = header.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let lengths = [version.len(), trace.len(), parent.len(), flags.len()];
    if version != "00"
        || lengths != [2, 32, 16, 2]
        || parts.next().is_some()
        || !is_hex(trace)
        || !is_hex(parent)
        || !is_hex(flags)
    {
        return None;
    }
    let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
    let span_id = u64::from_str_radix(parent, 16).ok().filter(|id| *id != 0)?;
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0;
    Some(Parent { trace_id, span_id, is_sampled })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_header_is_continued_and_everything_else_begins_anew() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let header = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, text.parse().unwrap());
            Trace::of_request(&headers, "/x").id()
        };
        assert_eq!(header(&format!("00-{trace}-b7ad6b7169203331-01")), trace);
        for bad in [
            "",
            "00-short-b7ad6b7169203331-01",
            &format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            &format!("00-{trace}-{}-01", "0".repeat(16)),
            &format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            &format!("ff-{trace}-b7ad6b7169203331-01"),
            &format!("00-{trace}-b7ad6b7169203331-01-x"),
            &format!("00-{trace}-b7ad6b7169203331-zz"),
        ] {
            assert_ne!(header(bad), trace, "{bad}");
        }
    }
}
