//! The database side of a batch: what is read into the book, and how the book is written back.

pub mod lock;
pub mod read;
mod rows;
pub mod write;
