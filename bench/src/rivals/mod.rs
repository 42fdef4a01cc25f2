//! What the services are compared with, in the same run on the same machine.

pub mod dbos;
pub mod pgbench;
pub mod redis_get;
pub mod row_lock;
