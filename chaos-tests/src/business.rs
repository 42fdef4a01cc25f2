//! Who is served, and what must be seen of nobody.

/// The business of every scenario.
pub const BUSINESS: &str = "chaos";
/// The other business, which must never hear of the first, nor the first of it. It uses the same keys and customers.
pub const OTHER: &str = "annex";
/// Every customer begins with so many units in each tender.
pub const OPENING: i64 = 1_000;
/// What codes of rewards are hashed with.
pub const PEPPER: &str = "a pepper that only tests know";
/// An e-mail address that tills send along, and that no log may show.
pub const CONTACT: &str = "till@shop.example";

/// A text that is in every order of a business.
#[must_use]
pub fn canary(business: &str) -> String {
    format!("canary-of-{business}")
}
