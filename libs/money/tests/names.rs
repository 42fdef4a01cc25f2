//! What assets and rates say of themselves.

use money::{Asset, Currency, PointValue};

#[test]
fn only_money_has_a_currency() {
    let khr: Currency = "KHR".parse().expect("a currency");
    assert_eq!((khr.to_string().as_str(), Asset::Money(khr).to_string().as_str()), ("KHR", "KHR"));
    assert_eq!((Asset::Money(khr).currency(), Asset::Points.currency()), (Some(khr), None));
}

#[test]
fn assets_are_ordered_by_name_with_points_first() {
    let asset = |name: &str| name.parse::<Asset>().expect(name);
    let mut assets = ["USD", "KHR", "points", "EUR"].map(asset);
    assets.sort();
    assert_eq!(assets.map(Asset::as_str), ["points", "EUR", "KHR", "USD"]);
    assert!(asset("EUR") < asset("KHR"));
}

#[test]
fn a_rate_is_kept_as_it_was_given() {
    let rate = "0.050".parse().expect("a decimal");
    let value = PointValue::try_new(rate, Currency::USD).expect("a rate");
    assert_eq!(value.rate().to_string(), "0.050");
    assert_eq!(PointValue::hundredth(Currency::USD).rate().to_string(), "0.01");
}
