//! `walletctl collection`: a Postman collection (v2.1, which Bruno and Insomnia import too) made from the services' OpenAPI
//! documents.

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use crate::{environment::Environment, output, ready::URLS};

const SCHEMA: &str = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json";
/// Deeper than any of our bodies; a schema that contains itself ends here.
const DEPTH: usize = 8;

/// Prints the collection of the services that run.
///
/// # Errors
/// When no service is known, or one does not answer with its document.
pub async fn print(environment: &Environment) -> anyhow::Result<()> {
    let mut documents = Vec::new();
    for name in URLS {
        let Some(url) = environment.get(name) else { continue };
        let address = format!("{}/openapi.json", url.trim_end_matches('/'));
        let answer = reqwest::get(&address).await.with_context(|| address.clone())?.error_for_status()?;
        documents.push((name.to_lowercase(), answer.json::<Value>().await.context(address)?));
    }
    ensure!(!documents.is_empty(), "no service is known: none of {} is set", URLS.join(", "));
    output::json(&collection(&documents))
}

/// The collection of these documents, each named by the variable that holds its service's address.
fn collection(documents: &[(String, Value)]) -> Value {
    let folders: Vec<Value> = documents
        .iter()
        .map(|(variable, document)| {
            let info = &document["info"];
            json!({ "name": info["title"], "description": info["description"], "item": requests(variable, document) })
        })
        .collect();
    let addresses = documents
        .iter()
        .zip(8080..)
        .map(|((variable, _), port)| json!({ "key": variable, "value": format!("http://127.0.0.1:{port}") }));
    let token =
        json!({ "key": "token", "value": "", "description": "walletctl token --business demo --role pos" });
    json!({
        "info": { "name": "Unified Wallet", "schema": SCHEMA },
        "auth": { "type": "bearer", "bearer": [{ "key": "token", "value": "{{token}}", "type": "string" }] },
        "variable": addresses.chain([token]).collect::<Vec<_>>(),
        "item": folders,
    })
}

fn requests(variable: &str, document: &Value) -> Vec<Value> {
    let mut requests = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            // A collection has no WebSockets.
            if operation["responses"].get("101").is_none() {
                requests.push(request(variable, path, method, operation, document));
            }
        }
    }
    requests
}

fn request(variable: &str, path: &str, method: &str, operation: &Value, document: &Value) -> Value {
    let parameters = |place: &str| {
        let all = operation["parameters"].as_array().into_iter().flatten();
        all.filter(|parameter| parameter["in"] == place).cloned().collect::<Vec<_>>()
    };
    let variables = parameters("path").into_iter().map(
        |parameter| json!({ "key": parameter["name"], "value": example(&parameter["schema"], document, 0) }),
    );
    let query = parameters("query").into_iter().map(|parameter| {
        json!({
            "key": parameter["name"], "value": example(&parameter["schema"], document, 0),
            "description": parameter["description"], "disabled": parameter["required"] != true,
        })
    });
    // Postman puts a fresh one in the place of {{$guid}} at each sending.
    let headers = parameters("header").into_iter().map(|parameter| {
        json!({ "key": parameter["name"], "value": "{{$guid}}", "description": parameter["description"] })
    });
    let segments: Vec<String> = path.split('/').skip(1).map(segment).collect();
    let mut request = json!({
        "method": method.to_uppercase(),
        "description": operation["description"],
        "header": headers.collect::<Vec<_>>(),
        "url": {
            "raw": format!("{{{{{variable}}}}}/{}", segments.join("/")),
            "host": [format!("{{{{{variable}}}}}")],
            "path": segments,
            "variable": variables.collect::<Vec<_>>(),
            "query": query.collect::<Vec<_>>(),
        },
    });
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !body.is_null() {
        let text = format!("{:#}", example(body, document, 0));
        request["body"] = json!({ "mode": "raw", "raw": text, "options": { "raw": { "language": "json" } } });
    }
    json!({ "name": operation["summary"], "request": request })
}

/// `{id}` is `:id` in a collection.
fn segment(segment: &str) -> String {
    match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(name) => format!(":{name}"),
        None => segment.to_owned(),
    }
}

/// A value that a schema allows: what is required, and no more.
fn example(schema: &Value, document: &Value, depth: usize) -> Value {
    if depth > DEPTH {
        return Value::Null;
    }
    if let Some(example) = schema.get("example") {
        return example.clone();
    }
    if let Some(target) =
        schema["$ref"].as_str().and_then(|path| document.pointer(path.trim_start_matches('#')))
    {
        return example(target, document, depth + 1);
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        let options = schema[choice].as_array().into_iter().flatten();
        if let Some(option) = options.into_iter().find(|option| option["type"] != "null") {
            return example(option, document, depth + 1);
        }
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match kind(schema) {
        "object" => object(schema, document, depth),
        "array" => json!([example(&schema["items"], document, depth + 1)]),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        "boolean" => json!(false),
        "string" => match schema["format"].as_str() {
            Some("uuid") => json!("00000000-0000-0000-0000-000000000000"),
            Some("date-time") => json!("2030-01-01T00:00:00Z"),
            _ => json!("text"),
        },
        _ => Value::Null,
    }
}

fn object(schema: &Value, document: &Value, depth: usize) -> Value {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let field = |name: &str| (name.to_owned(), example(&schema["properties"][name], document, depth + 1));
    Value::Object(required.map(field).collect::<Map<_, _>>())
}

/// The type, where null may be another one.
fn kind(schema: &Value) -> &str {
    let types = &schema["type"];
    let first = types.as_array().and_then(|types| types.iter().find(|kind| **kind != "null"));
    first.unwrap_or(types).as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn documents() -> Vec<(String, Value)> {
        let documents = [
            ("wallet_url", wallet::http::document()),
            ("points_url", tender::App::document(&points::Points)),
            ("store_credit_url", tender::App::document(&store_credit::StoreCredit)),
            ("digital_rewards_url", tender::App::document(&digital_rewards::DigitalRewards)),
        ];
        let value = |document| serde_json::to_value(document).expect("JSON");
        documents.map(|(name, document)| (name.to_owned(), value(document))).into()
    }

    #[test]
    fn the_collection_in_docs_is_the_one_of_the_code() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/unified-wallet.postman_collection.json");
        let made = format!("{:#}\n", collection(&documents()));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &made).expect("written");
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == made,
            "docs/unified-wallet.postman_collection.json is old: UPDATE_DOCS=1 cargo test -p walletctl"
        );
    }

    #[test]
    fn every_operation_is_described() {
        for (service, document) in documents() {
            let paths = document["paths"].as_object().expect("paths");
            assert!(!paths.is_empty(), "{service}");
            for (path, item) in paths {
                for (method, operation) in item.as_object().expect("operations") {
                    let place = format!("{service}: {method} {path}");
                    assert!(operation["summary"].is_string(), "{place} has no summary");
                    assert!(operation["responses"]["4XX"].is_object(), "{place} has no problem");
                    let parameters = operation["parameters"].as_array().into_iter().flatten();
                    for parameter in parameters {
                        let name = parameter["name"].as_str().expect("a name");
                        let is_described = parameter["description"].is_string();
                        assert!(parameter["in"] == "path" || is_described, "{place}: {name}");
                        let is_segment = path.contains(&format!("{{{name}}}"));
                        assert_eq!(parameter["in"] == "path", is_segment, "{place}: {name}");
                    }
                }
            }
        }
    }

    #[test]
    fn each_tender_asks_for_what_it_takes() {
        let documents = documents();
        let credit = |at: usize| {
            let document: &Value = &documents[at].1;
            example(&json!({ "$ref": "#/components/schemas/CreditRequest" }), document, 0)
        };
        let points = json!({ "customer_id": "text", "points": 1, "kind": "earn", "funding": "paid", "reference": "text" });
        assert_eq!(credit(1), points);
        let reward = json!({ "amount": 1, "currency": "USD", "kind": "issue", "funding": "paid", "reference": "text" });
        assert_eq!(credit(3), reward, "a reward may belong to whoever bears it");
        assert!(!documents[1].1.to_string().contains("Only this currency"));
    }

    #[test]
    fn a_body_has_what_is_required() {
        let (_, wallet) = documents().swap_remove(0);
        let redeem =
            &wallet["paths"]["/api/v1/wallet/redeem"]["post"]["requestBody"]["content"]["application/json"];
        let body = example(&redeem["schema"], &wallet, 0);
        assert_eq!(
            body,
            json!({ "customer_id": "text", "order_id": "text", "currency": "USD", "amount": 1 })
        );
    }
}
