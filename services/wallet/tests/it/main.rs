//! The wallet over three real tenders, real databases and real sockets.

mod cancelling;
mod contention;
mod corners;
mod history;
mod holding;
mod keys;
mod live;
mod live_cache;
mod live_events;
mod live_limits;
mod live_support;
mod lost_tail;
mod operating;
mod operating_bulk;
mod operating_lists;
mod operating_tenders;
mod races;
mod recovery;
mod redeeming;
mod rounding;
mod standing;
mod support;
mod tenancy;
