//! Waiting for a saga that another process runs.

use std::time::Duration;

use saga::Waited;
use tokio::time::Instant;

use crate::toy::{Does, World, quick};

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_another_process_reads_no_plan() {
    let world = World::start().await;
    let (process, other) = (world.process::<false>(quick()).await, world.process::<false>(quick()).await);
    process.domain.set("a", Does::Hangs);
    let (id, submitted) = process.submit("k", 1, &["a"]).await;
    submitted.expect("written");
    // Everything but the plan, which may be as large as a request.
    world
        .execute(
            "DO $$ BEGIN
                 REVOKE SELECT ON saga.saga FROM wallet_writer;
                 EXECUTE (SELECT format('GRANT SELECT (%s) ON saga.saga TO wallet_writer', string_agg(quote_ident(attname), ', '))
                     FROM pg_attribute WHERE attrelid = 'saga.saga'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'plan');
             END $$",
        )
        .await;
    let wait = |time| other.engine.wait(id, Instant::now() + time);
    let pending = wait(Duration::from_millis(300)).await.expect("a look without the plan");
    assert!(matches!(pending, Waited::Pending(_)), "{pending:?}");
    process.domain.set("a", Does::Applies);
    let answered = wait(Duration::from_secs(10)).await.expect("a look without the plan");
    assert!(matches!(answered, Waited::Answered(response) if response.status == 201));
}
