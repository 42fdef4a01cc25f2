//! The `dbos` crate: a durable workflow with three steps in parallel, none of which does anything.

use std::time::Duration;

use anyhow::Context;
use dbos::{Config, DBOS, WorkflowRef, step};

use crate::{
    database::{Scratch, server},
    load::{Caller, Outcome, Sample, closed},
};

/// Connections, as many as it makes use of on two cores.
const CONNECTIONS: u32 = 32;

/// The rival, ready to be asked.
pub struct Dbos {
    instance: DBOS,
    workflow: WorkflowRef<u32, u32>,
    _database: Scratch,
}

async fn three_steps(order: u32) -> dbos::Result<u32> {
    let legs = ["points", "store_credit", "digital_reward"];
    let [one, two, three] = legs.map(|leg| step(leg, || async { dbos::Result::Ok(1_u32) }));
    let (one, two, three) = tokio::join!(one, two, three);
    Ok(order.wrapping_add(one? + two? + three?))
}

impl Dbos {
    /// Starts it on a database of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let database = Scratch::create("dbos").await?;
        let config = Config {
            max_connections: CONNECTIONS,
            app_version: Some("1".to_owned()),
            ..Config::new("bench", database.url(&server()?))
        };
        let instance = DBOS::new(config);
        let workflow = instance.register_workflow("redeem", three_steps).context("a workflow")?;
        instance.launch().await.context("dbos does not start")?;
        Ok(Self { instance, workflow, _database: database })
    }

    /// So many callers, for so long.
    pub async fn load(&self, callers: usize, lasts: Duration) -> Sample {
        let caller = || Asks(self.workflow.clone());
        closed((0..callers).map(|_| caller()).collect(), lasts).await
    }

    /// Stops it.
    pub async fn stop(self) {
        self.instance.shutdown().await;
    }
}

struct Asks(WorkflowRef<u32, u32>);

impl Caller for Asks {
    async fn call(&mut self, _: u64) -> Outcome {
        match self.0.run(1).await {
            Ok(4) => Outcome::Done,
            _ => Outcome::Failed,
        }
    }
}
