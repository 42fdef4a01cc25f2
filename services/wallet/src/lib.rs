//! The wallet orchestrator: plans which tender covers how much, runs the redemption's saga over the tenders, and gives the
//! till one answer.
//!
//! | where | what |
//! |---|---|
//! | [`http`] | one file a use case; `http::routes` has all routes on one screen |
//! | [`planning`] | pure: which tender covers how much |
//! | [`live`] | balances that were read a moment ago, and who hears of what changes |
//! | [`plan`] | what a saga set out to do |
//! | [`sagas`] | how legs reach tenders, and what endings mean |
//! | [`redemption`] | where a redemption stands, what moves it, its rows |
//! | [`reversal`], [`hold_expiry`] | giving a whole redemption back, and who does it when a hold ends |
//! | [`paused`] | tenders that a business has taken out of service |
//! | [`tenders`] | clients: lanes, connections |
//! | [`reconcile`] | legs without a saga, and holds that outlived theirs |

pub mod app;
pub mod hold_expiry;
pub mod http;
pub mod limits;
pub mod live;
pub mod paused;
pub mod plan;
pub mod planning;
pub mod reconcile;
pub mod redemption;
pub mod reversal;
pub mod sagas;
pub mod tenders;

pub use app::App;
