//! The OpenAPI document of a service, made from its routes, and the page to try it at.
//!
//! An operation is described beside its handler; what holds for all of them is added here once: the token, the problem
//! document, the version. `Deprecation` and `Sunset` headers come from the document too, so that what is announced
//! and what is answered cannot differ.

use std::{collections::HashMap, sync::Arc};

use api::Problem;
use axum::{
    Json, Router,
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Components, ContentBuilder, Info, InfoBuilder, LicenseBuilder, OpenApi, Ref, ResponseBuilder, Server,
        path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

use crate::{extract::IdempotencyKey, problem::PROBLEM_JSON};

/// Version of the contract under `/api/v1`: it rises with every addition, and its first number with the path.
pub const API_VERSION: &str = "1.0.0";
/// Header of every answer: the version of the contract that it follows.
pub const API_VERSION_HEADER: HeaderName = HeaderName::from_static("api-version");
/// In an operation of the document: since when it is deprecated, as seconds since 1970 (RFC 9745).
pub const DEPRECATED_SINCE: &str = "x-deprecated-since";
/// In an operation of the document: when it will end, as an HTTP date (RFC 8594).
pub const SUNSET: &str = "x-sunset";

/// What every operation may answer with instead.
const PROBLEMS: [(&str, &str); 2] = [
    ("4XX", "It was not done: a problem document (RFC 9457) with a stable code, see docs/ERRORS.md"),
    (
        "5XX",
        "It failed on our side; `outcome` says whether it may have been done, `retryable` whether to ask again",
    ),
];

const TOKEN: &str = "token";
const DEPRECATION_HEADER: HeaderName = HeaderName::from_static("deprecation");
const SUNSET_HEADER: HeaderName = HeaderName::from_static("sunset");

/// What a service's document says of the service.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Its name.
    pub title: &'static str,
    /// What it is for, in a sentence or two.
    pub description: &'static str,
}

/// Routes with their document at `/openapi.json` and a page to try it at `/docs`.
pub fn publish(routes: OpenApiRouter, about: About) -> Router {
    let (routes, document) = routes.split_for_parts();
    let mut document = complete(document, about);
    let notices = notices(&mut document);
    // While nothing is deprecated no request pays for the question.
    let routes = if notices.is_empty() { routes } else { announcing(routes, notices) };
    let json = Json(document);
    routes
        .route("/openapi.json", get(async move || json))
        .merge(SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::from("/openapi.json")))
}

/// The document of `routes`, with what holds for all operations.
#[must_use]
pub fn document<S>(routes: OpenApiRouter<S>, about: About) -> OpenApi
where
    S: Clone + Send + Sync + 'static,
{
    complete(routes.into_openapi(), about)
}

fn complete(mut document: OpenApi, about: About) -> OpenApi {
    document.info = info(about);
    let components = document.components.get_or_insert_with(Components::new);
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme(TOKEN, SecurityScheme::Http(bearer));
    document.servers = Some(vec![Server::new("/")]);
    document.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
    for (path, item) in &mut document.paths.paths {
        // Below /api/v1: the part of the service.
        let tag = path.split('/').nth(3).map(str::to_owned);
        for (_, operation) in operations_mut(item) {
            operation.tags = tag.clone().map(|tag| vec![tag]);
            for (statuses, description) in PROBLEMS {
                let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name())));
                let response =
                    ResponseBuilder::new().description(description).content(PROBLEM_JSON, problem.build());
                operation.responses.responses.insert(statuses.to_owned(), response.build().into());
            }
        }
    }
    drop_unused(&mut document);
    document
}

/// A page of lines describes its lines in place, which leaves their own schemas without a reader.
fn drop_unused(document: &mut OpenApi) {
    let text = serde_json::to_string(document).unwrap_or_default();
    let is_used = |name: &str| text.contains(&format!("\"#/components/schemas/{name}\""));
    if let Some(components) = &mut document.components {
        components.schemas.retain(|name, _| is_used(name));
    }
}

fn info(about: About) -> Info {
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0"));
    InfoBuilder::new()
        .title(about.title)
        .description(Some(about.description))
        .version(API_VERSION)
        .license(Some(license.build()))
        .build()
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let all = [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Put, &mut item.put),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// What callers of a deprecated operation are told.
type Notice = Vec<(HeaderName, HeaderValue)>;

/// By method and path, the deprecated operations.
type Notices = HashMap<(Method, String), Notice>;

fn notices(document: &mut OpenApi) -> Notices {
    let mut notices = HashMap::new();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations_mut(item) {
            let notice = notice(operation);
            if !notice.is_empty() {
                notices.insert((axum_method(&method), path.clone()), notice);
            }
        }
    }
    notices
}

fn notice(operation: &Operation) -> Notice {
    let extension = |name: &str| {
        let value = operation.extensions.as_ref()?.get(name)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let since = extension(DEPRECATED_SINCE).map(|since| (DEPRECATION_HEADER, format!("@{since}")));
    let sunset = extension(SUNSET).map(|date| (SUNSET_HEADER, date));
    let headers = since.into_iter().chain(sunset);
    headers.filter_map(|(name, text)| Some((name, HeaderValue::from_str(&text).ok()?))).collect()
}

fn axum_method(method: &HttpMethod) -> Method {
    match method {
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        _ => Method::GET,
    }
}

fn announcing(routes: Router, notices: Notices) -> Router {
    let notices = Arc::new(notices);
    let announced = move |request: Request, next: Next| announce(notices.clone(), request, next);
    routes.route_layer(middleware::from_fn(announced))
}

async fn announce(notices: Arc<Notices>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let notice =
        path.and_then(|path| notices.get(&(request.method().clone(), path.as_str().to_owned())).cloned());
    let mut response = next.run(request).await;
    response.headers_mut().extend(notice.into_iter().flatten());
    response
}

impl utoipa::IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let schema = utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .min_length(Some(1))
            .max_length(Some(255))
            .pattern(Some("^[!-~]{1,255}$"));
        let parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(utoipa::openapi::Required::True)
            .description(Some(
                "Chosen by the caller. The same key with the same body gets the stored answer, for ever; with another \
                 body, 422 idempotency_key_reused.",
            ))
            .schema(Some(schema));
        vec![parameter.build()]
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{StatusCode, header},
    };
    use tower::ServiceExt;
    use utoipa_axum::routes;

    use super::*;

    const ABOUT: About = About { title: "Test", description: "A service." };

    #[utoipa::path(get, path = "/old", responses((status = 200, description = "Fine")),
        extensions(("x-deprecated-since" = json!(1_767_225_600)), ("x-sunset" = json!("Fri, 01 Jan 2027 00:00:00 GMT"))))]
    #[deprecated]
    async fn old() {}

    #[utoipa::path(get, path = "/new", responses((status = 200, description = "Fine")))]
    async fn new() {}

    #[tokio::test]
    #[expect(deprecated, reason = "it is what is tested")]
    async fn a_deprecated_operation_says_so_in_the_document_and_in_its_answers() {
        let routes = OpenApiRouter::new().routes(routes!(old)).routes(routes!(new));
        let routes = publish(OpenApiRouter::new().nest("/api/v1", routes), ABOUT);
        let answer = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            routes.clone().oneshot(request).await.unwrap()
        };

        let old = answer("/api/v1/old").await;
        assert_eq!(old.headers()["deprecation"], "@1767225600");
        assert_eq!(old.headers()["sunset"], "Fri, 01 Jan 2027 00:00:00 GMT");
        let new = answer("/api/v1/new").await;
        assert_eq!(new.status(), StatusCode::OK);
        assert!(!new.headers().contains_key("deprecation"));

        let document = answer("/openapi.json").await;
        assert_eq!(document.headers()[header::CONTENT_TYPE], "application/json");
        let bytes = axum::body::to_bytes(document.into_body(), usize::MAX).await.unwrap();
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let operation = &document["paths"]["/api/v1/old"]["get"];
        assert_eq!(operation["deprecated"], true);
        assert!(operation["responses"]["4XX"]["content"].get(PROBLEM_JSON).is_some());
        assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
        assert!(document["components"]["schemas"]["Problem"].is_object());
        assert_eq!(answer("/docs/").await.status(), StatusCode::OK);
    }
}
