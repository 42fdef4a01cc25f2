//! What amounts, assets and rates say of themselves.

use money::{Amount, Asset, Currency, PointValue, split_by_weight};

#[test]
fn an_amount_is_so_many_units_of_an_asset() {
    let usd = Asset::Money(Currency::USD);
    let amount = Amount::new(-250, usd);
    assert_eq!((amount.units(), amount.asset(), amount.to_string().as_str()), (-250, usd, "-250 USD"));
    assert_eq!(Amount::new(3, Asset::Points).to_string(), "3 points");
}

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

#[test]
fn nothing_is_split_into_nothing() {
    assert_eq!(split_by_weight(0, &[1, 2]), Ok(vec![0, 0]));
    assert_eq!(split_by_weight(1, &[1, -1]).ok(), None);
}
