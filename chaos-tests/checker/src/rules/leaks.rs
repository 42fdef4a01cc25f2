//! I15 and I18: what is one business's is in nothing of another's, and no secret is in a log.

use serde_json::Value;

use crate::{
    case::Case,
    format::{Business, Call, Source},
    invariant::{Invariant, Violation},
};

/// What a token and a private key begin with.
const MARKS: [&str; 2] = ["eyJ", "PRIVATE KEY"];
/// A token is at least so long.
const TOKEN: usize = 40;
/// What is around a find is shown this far.
const AROUND: usize = 80;

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut found = strangers(case);
    for (process, log) in &case.evidence.logs {
        for line in log.lines() {
            found.extend(of_line(case, process, line));
        }
    }
    found
}

/// Whatever belongs to one business and has another's canary in it.
fn strangers(case: &Case<'_>) -> Vec<Violation> {
    let evidence = case.evidence;
    let mut found = Vec::new();
    let mut see = |what: &str, owner: Option<&str>, text: &str| {
        let others = evidence.meta.businesses.iter().filter(|business| owner != Some(business.name.as_str()));
        for business in others.filter(|business| text.contains(&business.canary)) {
            let text = format!("{what} of {owner:?} has {:?}: {text}", business.canary);
            found.push(Violation::new(Invariant::I15, text));
        }
    };
    for made in &case.calls {
        see("an answer", Some(business(made.call)), made.answer.map_or("", |answer| &answer.body));
    }
    for heard in &evidence.streams {
        see("a stream", Some(&heard.business), heard.message.as_deref().unwrap_or_default());
    }
    for event in &evidence.events {
        let said: Value = serde_json::from_str(&event.event).unwrap_or(Value::Null);
        see("an event", said["business_id"].as_str(), &event.event);
    }
    for capture in &evidence.captures {
        let named = |business: &&Business| capture.text.contains(&format!(":{}:", business.name));
        match capture.from {
            Source::Metrics => see("a metric", None, &capture.text),
            Source::Cache => {
                let owner =
                    evidence.meta.businesses.iter().find(named).map(|business| business.name.as_str());
                see("a key", owner, &capture.text);
            }
        }
    }
    found
}

fn business(call: &Call) -> &str {
    match call {
        Call::Redeem { business, .. }
        | Call::Cancel { business, .. }
        | Call::Capture { business, .. }
        | Call::Void { business, .. }
        | Call::Credit { business, .. }
        | Call::Read { business, .. }
        | Call::Balance { business, .. } => business,
    }
}

fn of_line(case: &Case<'_>, process: &str, line: &str) -> Option<Violation> {
    let meta = &case.evidence.meta;
    let secret = meta.secrets.iter().find_map(|secret| line.find(secret.as_str()));
    let marked = || MARKS.into_iter().find_map(|mark| line.find(mark).filter(|at| is_secret(&line[*at..])));
    if let Some(at) = secret.or_else(marked) {
        let from = line.floor_char_boundary(at.saturating_sub(AROUND));
        let around = &line[from..line.floor_char_boundary(at + AROUND)];
        return Some(Violation::new(Invariant::I18, format!("{process} logged a secret: …{around}…")));
    }
    let is_of = |business: &Business| line.contains(&format!("\"business_id\":\"{}\"", business.name));
    let canary = meta.businesses.iter().find(|business| line.contains(&business.canary))?;
    let other = meta.businesses.iter().find(|other| other.name != canary.name && is_of(other))?;
    Some(Violation::new(
        Invariant::I15,
        format!("{process} logged of {} what is {}'s: {line}", other.name, canary.name),
    ))
}

/// A token is a long run of letters with a dot in it; a key's mark is enough.
fn is_secret(text: &str) -> bool {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let run = text.find(|c| !is_of_token(c)).unwrap_or(text.len());
    text.starts_with(MARKS[1]) || (run >= TOKEN && text[..run].contains('.'))
}
