//! The redemption: what a till sees of its sagas.
//!
//! | where | what |
//! |---|---|
//! | [`status`] | where a redemption stands |
//! | [`transition`] | pure: what moves it, and where to |
//! | [`legs`] | what each leg took, and what of it is reserved for going back |
//! | [`record`] | its row, written inside the transactions of its sagas |
//! | [`follow`] | redemptions whose saga was parked without them |

pub mod follow;
pub mod legs;
pub mod record;
pub mod status;
pub mod transition;

pub use record::{Change, Moved, Opening};
pub use status::Standing;
pub use transition::{Event, Illegal, Work};
