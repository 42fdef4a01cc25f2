//! The wallet over three real tenders, real databases and real sockets.

mod cancelling;
mod contention;
mod holding;
mod keys;
mod lost_tail;
mod operating;
mod recovery;
mod redeeming;
mod review;
mod support;
