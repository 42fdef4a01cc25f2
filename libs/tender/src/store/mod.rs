//! The database side: what a batch locks, reads into its working set and writes back, and what is read outside batches.

pub mod accounts;
mod dirty;
pub mod lock;
pub mod operations;
pub mod read;
pub mod rows;
pub mod write;
pub mod write_set;
