//! The engine with a toy domain, on a real database.

mod admission;
mod clock;
mod names;
mod parking;
mod proof;
mod recovery;
mod store;
mod toy;
mod versions;
mod wait;
