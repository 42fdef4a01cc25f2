//! Requests to the public APIs, and their answers as they came.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// The tills' own limit is shorter; this one is for a command that would hang.
const TIMEOUT: Duration = Duration::from_secs(40);

/// One service, called with one token.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Whether it is the stored answer to an earlier request.
    pub is_replayed: bool,
    /// The body, byte for byte.
    pub text: String,
}

impl Client {
    /// A client of the service at `base`.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(base: &str, token: String) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token })
    }

    /// Reads.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Answer> {
        self.send(self.http.request(Method::GET, self.url(path)).query(query)).await
    }

    /// Asks for something to be done, under `key` where one is needed.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post(&self, path: &str, key: Option<&str>, body: &Value) -> anyhow::Result<Answer> {
        let mut request = self.http.request(Method::POST, self.url(path)).json(body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.send(request).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
        let response = request
            .bearer_auth(&self.token)
            .send()
            .await
            .with_context(|| format!("no answer from {}", self.base))?;
        let is_replayed = response.headers().contains_key("idempotent-replayed");
        let status = response.status();
        let text = response.text().await.context("the answer ended early")?;
        Ok(Answer { status, is_replayed, text })
    }
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.text).context("the answer is not JSON")
    }

    /// The body of a success.
    ///
    /// # Errors
    /// Otherwise, with the problem document.
    pub fn success(self) -> anyhow::Result<Value> {
        if self.status.is_success() { self.json() } else { Err(anyhow::anyhow!("{}", self.show())) }
    }

    /// The answer as a person reads it.
    pub fn show(&self) -> String {
        let mut text = format!("HTTP {}", self.status);
        if self.is_replayed {
            text.push_str("\nIdempotent-Replayed: true");
        }
        text.push('\n');
        text.push_str(&indented(&self.text));
        text
    }
}

/// Compact JSON over several lines, its fields in the order in which they came; other text as it is.
fn indented(json: &str) -> String {
    let (mut text, mut depth, mut in_string, mut is_escaped) = (String::new(), 0_usize, false, false);
    let mut characters = json.chars().peekable();
    while let Some(c) = characters.next() {
        let opens = !in_string && matches!(c, '{' | '[');
        let closes = !in_string && matches!(c, '}' | ']');
        let is_empty = opens && matches!(characters.peek(), Some('}' | ']'));
        if closes && !text.ends_with(['{', '[']) {
            depth = depth.saturating_sub(1);
            break_line(&mut text, depth);
        }
        text.push(c);
        if opens && !is_empty {
            depth += 1;
        }
        if (opens && !is_empty) || (c == ',' && !in_string) {
            break_line(&mut text, depth);
        } else if c == ':' && !in_string {
            text.push(' ');
        }
        in_string ^= c == '"' && !is_escaped;
        is_escaped = in_string && c == '\\' && !is_escaped;
    }
    text
}

fn break_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
}

#[cfg(test)]
mod tests {
    use super::indented;

    #[test]
    fn json_is_shown_in_its_own_order() {
        let json = r#"{"b":[1,{"a":"x,:{\"}"}],"a":[],"c":{}}"#;
        let shown = "{\n  \"b\": [\n    1,\n    {\n      \"a\": \"x,:{\\\"}\"\n    }\n  ],\n  \"a\": [],\n  \"c\": {}\n}";
        assert_eq!(indented(json), shown);
        let whole: serde_json::Value = serde_json::from_str(&indented(json)).unwrap();
        assert_eq!(whole, serde_json::from_str::<serde_json::Value>(json).unwrap());
    }
}
