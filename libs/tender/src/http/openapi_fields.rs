//! What differs between tenders in their OpenAPI documents: each shows the fields and kinds that it takes, and no others.

use money::Asset;
use serde_json::Value;
use utoipa::openapi::{
    ObjectBuilder, OpenApi, RefOr, Schema,
    path::PathItem,
    schema::{Object, Type},
};

use crate::rules::Rules;

/// Leaves of what all tenders share the fields and kinds that these rules take.
pub(super) fn restrict(document: &mut OpenApi, rules: &dyn Rules) {
    let is_points = rules.accepts(Asset::Points);
    if is_points {
        // Points have no currency to ask for.
        document.paths.paths.values_mut().for_each(|item| drop_parameter(item, "currency"));
    }
    let schemas = document.components.iter_mut().map(|components| &mut components.schemas);
    for credit in schemas.filter_map(|schemas| schemas.get_mut("CreditRequest")) {
        let RefOr::T(Schema::Object(credit)) = credit else { continue };
        let (foreign, own): (&[&str], &[&str]) = if is_points {
            (&["amount", "currency"], &["points"])
        } else {
            (&["points"], &["amount", "currency"])
        };
        credit.properties.retain(|name, _| !foreign.contains(&name.as_str()));
        own.iter().for_each(|name| require(credit, name));
        if !rules.takes_from_rewards() {
            require(credit, "customer_id");
        }
        let kinds = rules.credit_kinds().iter().map(|kind| Value::from(*kind));
        let kinds = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(kinds));
        credit.properties.insert("kind".to_owned(), kinds.build().into());
    }
}

fn drop_parameter(item: &mut PathItem, name: &str) {
    let parameters = item.get.iter_mut().filter_map(|operation| operation.parameters.as_mut());
    for parameters in parameters {
        parameters.retain(|parameter| !matches!(parameter, RefOr::T(parameter) if parameter.name == name));
    }
}

/// A field that may not be left out, and so is not null either.
fn require(object: &mut Object, name: &str) {
    object.required.push(name.to_owned());
    let Some(property) = object.properties.get_mut(name) else { return };
    if let RefOr::T(Schema::OneOf(choice)) = property
        && let Some(only) = choice.items.iter().find(|item| matches!(item, RefOr::Ref(_)))
    {
        *property = only.clone();
    } else if let RefOr::T(Schema::Object(field)) = property {
        field.schema_type = Type::Integer.into();
    }
}
