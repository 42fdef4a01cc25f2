//! The database side: what a batch locks, reads into its book and writes back, and what is read outside batches.

pub mod accounts;
pub mod lock;
pub mod operations;
pub mod post;
pub mod read;
pub mod rows;
pub mod write;
