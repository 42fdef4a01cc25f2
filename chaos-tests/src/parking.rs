//! The wallet's database refuses the part of a dead letter that is the domain's: sagas have to be parked all the same.

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use crate::server::Server;

/// What the refusal says, and the server's log with it.
const REFUSAL: &str = "the suite refuses to park";

const REFUSE: &str = "
    CREATE FUNCTION public.refuse_parking() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the suite refuses to park'; END $$;
    CREATE TRIGGER refuse_parking BEFORE UPDATE ON wallet.redemption
        FOR EACH ROW WHEN (NEW.status = 'under_review') EXECUTE FUNCTION public.refuse_parking()";

const ALLOW: &str = "
    DROP TRIGGER refuse_parking ON wallet.redemption;
    DROP FUNCTION public.refuse_parking()";

/// From now on no redemption may be under review.
///
/// # Panics
/// When the server cannot be asked.
pub async fn refuse(server: &Server) {
    run(server, REFUSE).await;
}

/// It may again. How many sagas are parked.
///
/// # Panics
/// When the server cannot be asked.
pub async fn allow(server: &Server) -> i64 {
    run(server, ALLOW).await;
    let mut connection = PgConnection::connect_with(&owner(server)).await.expect("a connection");
    let parked = sqlx::query_scalar("SELECT count(*) FROM saga.dead_letter WHERE closed_at IS NULL");
    parked.fetch_one(&mut connection).await.expect("a count")
}

/// How often it was refused so far.
#[must_use]
pub fn refusals(server: &Server) -> u64 {
    server.logged(REFUSAL)
}

async fn run(server: &Server, statements: &'static str) {
    let mut connection = PgConnection::connect_with(&owner(server)).await.expect("a connection");
    sqlx::raw_sql(statements).execute(&mut connection).await.expect("a trigger");
}

fn owner(server: &Server) -> PgConnectOptions {
    server.databases[0].1.clone().application_name("chaos")
}
