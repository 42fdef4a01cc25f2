//! `docs/ERRORS.md` lists exactly the codes that exist.

use std::{fmt::Write, fs};

use api::{Code, Outcome, Problem};

use crate::root;

const HEAD: &str = "# Errors

Every error is an `application/problem+json` document (RFC 9457) with a stable `code`. `retryable` says whether the same
request under the *same* key may still succeed; `outcome` says whether anything happened: `not_applied`, `applied` or
`unknown`. After `unknown`, or no answer at all, send the same request with the same key again, or look the redemption up
by its key. `suggestion` is written for the person at the till.

This page is made from the code: `UPDATE_DOCS=1 cargo test -p testkit --test tidy` writes it, and the same test fails
when it is out of date.

| HTTP | code | meaning | same key may succeed | what the cashier can do |
|---|---|---|---|---|
";

fn page() -> String {
    let mut codes = Code::ALL.to_vec();
    codes.sort_by_key(|code| code.status());
    let mut page = HEAD.to_owned();
    for code in codes {
        let retryable = if code.is_retryable() { "yes" } else { "no" };
        writeln!(
            page,
            "| {} | `{}` | {} | {retryable} | {} |",
            code.status(),
            code.as_str(),
            code.title(),
            code.suggestion()
        )
        .unwrap();
    }
    page
}

#[test]
fn the_page_lists_every_code() {
    let path = root().join("docs/ERRORS.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/ERRORS.md is out of date: UPDATE_DOCS=1 cargo test -p testkit --test tidy"
    );
}

#[test]
fn every_code_makes_a_whole_document() {
    for code in Code::ALL {
        let problem = Problem::new(*code, "detail");
        assert!((400..600).contains(&problem.status), "{}", problem.code);
        assert!(problem.suggestion.ends_with('.'), "{}: a suggestion is a sentence", problem.code);
        assert_eq!(Code::parse(code.as_str()), Some(*code));
        assert_eq!(problem.outcome, Outcome::NotApplied);
    }
}
