//! A lane: commands of concurrent sagas travel together.
//!
//! One task takes whatever waits, up to a limit and without a timer, and sends it as one batch, whose answers come as a stream of
//! lines: each caller has its answer when its line is there, and when the cache knows which versions the lines that came with it
//! tell of: from then on no older balance is shown, whichever process runs the saga. A batch that does not end soon is left to itself and
//! the lane goes on, so that a slow leg delays nobody: nothing but time bounds how many are left ([`UNFINISHED`]), since whatever else
//! they took from each other, the slow legs of one account would take from all. After an error the next commands go singly: a batch
//! must not fail for one bad command, nor for a tender that does not know batches.

use std::{sync::Arc, time::Duration};

use api::{
    client::CallError,
    legs::{BATCH_MAX, Batch, BatchLine, LegAction, LegAnswer, LegCommand, SingleCapture, SingleForward},
};
use fail::fail_point;
use futures_util::StreamExt;
use metrics::histogram;
use reqwest::Response;
use service::{
    Supervisor,
    trace::{self, Trace},
};
use tokio::{
    sync::{Mutex, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::transport::{Transport, unknown};

/// Longest queue in front of a lane.
const QUEUE: usize = 8_192;
/// A batch that takes longer than this no longer holds the lane.
const PATIENCE: Duration = Duration::from_millis(20);
/// Nothing of a batch is waited for any longer than this; its callers have given up before.
const BATCH_TIMEOUT: Duration = Duration::from_secs(6);
/// Most batches left to themselves at once, each with a connection: each has held the lane for [`PATIENCE`], and ends by itself.
const UNFINISHED: usize = 300;
const _: () = assert!(UNFINISHED as u128 * PATIENCE.as_millis() == BATCH_TIMEOUT.as_millis());
/// Commands that go singly after a batch failed.
const SINGLES: usize = 64;
/// Most batches whose commands go singly at once, each with a connection; with as many under way commands travel together again.
const SINGLE_BATCHES: usize = 4;
/// Longest line of an answer.
const LINE_LIMIT: usize = 256 * 1024;

struct Item {
    command: LegCommand,
    done: oneshot::Sender<Result<LegAnswer, CallError>>,
}

#[derive(Debug, Clone)]
pub(super) struct Lane(mpsc::Sender<Item>);

impl Lane {
    pub(super) fn start(tender: Arc<Transport>, tasks: &TaskTracker) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        let (items, sending) = (Arc::new(Mutex::new(items)), tasks.clone());
        // It ends with the last that sends; what waits in the queue outlives a panic.
        Supervisor::new(tasks.clone(), CancellationToken::new()).supervise_to_end("lane", move |ended| {
            let (tender, items, sending) = (tender.clone(), items.clone(), sending.clone());
            async move {
                run(tender, &mut *items.lock().await, sending).await;
                ended.cancel();
            }
        });
        Self(queue)
    }

    pub(super) async fn send(&self, command: LegCommand) -> Result<LegAnswer, CallError> {
        let (done, answer) = oneshot::channel();
        // Not sent for certain: the lane takes nothing more.
        self.0.try_send(Item { command, done }).map_err(|_| CallError::Refused)?;
        answer.await.unwrap_or_else(|_| Err(CallError::Unknown("the lane dropped it".to_owned())))
    }
}

async fn run(tender: Arc<Transport>, items: &mut mpsc::Receiver<Item>, tasks: TaskTracker) {
    let single_batches = Arc::new(Semaphore::new(SINGLE_BATCHES));
    let mut singles = 0_usize;
    let mut waiting = Vec::with_capacity(BATCH_MAX);
    let (failed, mut failures) = mpsc::channel::<()>(UNFINISHED);
    while items.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        // A command whose caller gave up while it waited here is not sent.
        waiting.retain(|item| !item.done.is_closed());
        if waiting.is_empty() {
            continue;
        }
        while failures.try_recv().is_ok() {
            singles = SINGLES;
        }
        histogram!("wallet_lane_batch_size", "tender" => tender.kind.as_str())
            .record(f64::from(u32::try_from(waiting.len()).unwrap_or(u32::MAX)));
        let batch = std::mem::take(&mut waiting);
        let (tender, failed) = (tender.clone(), failed.clone());
        let one_by_one = if singles > 0 { single_batches.clone().try_acquire_owned().ok() } else { None };
        singles = singles.saturating_sub(batch.len());
        let mut sending = tasks.spawn(async move {
            if let Some(_permit) = one_by_one {
                let all = batch.into_iter().map(|item| send_single(&tender, item));
                futures_util::future::join_all(all).await;
            } else if let Ok(Err(())) = timeout(BATCH_TIMEOUT, send_batch(&tender, batch)).await {
                // One that only takes too long would take as long singly.
                let _ = failed.try_send(());
            }
        });
        let _ = timeout(PATIENCE, &mut sending).await;
    }
}

/// Sends a batch and answers its callers line by line. An error means that commands should go singly for a while.
async fn send_batch(tender: &Transport, items: Vec<Item>) -> Result<(), ()> {
    let (commands, mut callers): (Vec<_>, Vec<_>) =
        items.into_iter().map(|item| (item.command, Some(item.done))).unzip();
    let batch = Batch { commands };
    let response = match tender.post(&["batch"], &batch).await {
        Ok(response) => response,
        Err(CallError::Refused) => {
            answer_all(&mut callers, || CallError::Refused);
            return Ok(()); // singles would be refused as well
        }
        Err(error) => {
            answer_all(&mut callers, || CallError::Unknown(error.to_string()));
            return Err(());
        }
    };
    // The tender has begun to answer: it has the legs, and works on them.
    fail_point!("wallet::legs_sent");
    let outcome = read_lines(tender, response, &batch.commands, &mut callers).await;
    let is_complete = callers.iter().all(Option::is_none);
    let error = outcome.err().unwrap_or_else(|| "no answer".to_owned());
    answer_all(&mut callers, || CallError::Unknown(error.clone()));
    if is_complete { Ok(()) } else { Err(()) }
}

type Caller = Option<oneshot::Sender<Result<LegAnswer, CallError>>>;

fn answer_all(callers: &mut [Caller], error: impl Fn() -> CallError) {
    for done in callers.iter_mut().filter_map(Option::take) {
        let _ = done.send(Err(error()));
    }
}

async fn read_lines(
    tender: &Transport,
    response: Response,
    commands: &[LegCommand],
    callers: &mut [Caller],
) -> Result<(), String> {
    let mut chunks = response.bytes_stream();
    let mut buffer = Vec::new();
    while let Some(chunk) = chunks.next().await {
        buffer.extend_from_slice(&chunk.map_err(|error| unknown(&error).to_string())?);
        let mut lines = Vec::new();
        let taken = take_lines(&mut buffer, &mut lines);
        let after = |line: &BatchLine| Some((line.index, line.answer.as_ref()?.after?.version));
        let reached = lines.iter().filter_map(after);
        let reached: Vec<_> =
            reached.filter_map(|(index, version)| Some((&commands.get(index)?.account, version))).collect();
        tender.reached(&reached).await;
        for line in lines {
            answer(tender, line, callers);
        }
        taken?;
    }
    Ok(())
}

/// Moves whole lines from the buffer.
fn take_lines(buffer: &mut Vec<u8>, lines: &mut Vec<BatchLine>) -> Result<(), String> {
    let mut rest = buffer.as_slice();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        lines.push(serde_json::from_slice(&rest[..end]).map_err(|error| error.to_string())?);
        rest = &rest[end + 1..];
    }
    let used = buffer.len() - rest.len();
    buffer.drain(..used);
    if buffer.len() > LINE_LIMIT { Err("a line is too long".to_owned()) } else { Ok(()) }
}

fn answer(tender: &Transport, line: BatchLine, callers: &mut [Caller]) {
    if line.answer.is_some() {
        tender.note_clock(line.at_ms);
    }
    let Some(done) = callers.get_mut(line.index).and_then(Option::take) else { return };
    let _ = done.send(match (line.answer, line.problem) {
        (Some(answer), None) => Ok(answer),
        (None, Some(problem)) if problem.status < 500 => Err(CallError::Rejected(Box::new(problem))),
        (None, Some(problem)) => Err(CallError::Unknown(problem.code.into_owned())),
        _ => Err(CallError::Unknown("a line with neither or both of answer and problem".to_owned())),
    });
}

async fn send_single(tender: &Transport, item: Item) {
    let trace = Trace::of_header(item.command.trace.as_deref(), "leg");
    let answer = timeout(BATCH_TIMEOUT, trace::scope(trace, single(tender, item.command))).await;
    let _ = item.done.send(answer.unwrap_or_else(|_| Err(CallError::Unknown("timeout".to_owned()))));
}

async fn single(tender: &Transport, command: LegCommand) -> Result<LegAnswer, CallError> {
    let LegCommand { legs_id, leg, account, action, epoch, trace: _, sent_at } = command;
    let (legs_id, leg) = (legs_id.to_string(), leg.to_string());
    let response = match action {
        LegAction::Forward(forward) => {
            let account = account.clone();
            tender.put(&[&legs_id, &leg], &SingleForward { account, forward, epoch, sent_at }).await?
        }
        LegAction::Cancel => tender.post(&[&legs_id, &leg, "cancel"], &account).await?,
        LegAction::Release => tender.post(&[&legs_id, &leg, "release"], &account).await?,
        LegAction::Capture { amount } => {
            let account = account.clone();
            tender.post(&[&legs_id, &leg, "capture"], &SingleCapture { account, amount }).await?
        }
        LegAction::Query => return Err(CallError::Unknown("a query does not travel in a lane".to_owned())),
    };
    let answer: LegAnswer = response.json().await.map_err(|error| unknown(&error))?;
    if let Some(after) = answer.after {
        tender.reached(&[(&account, after.version)]).await;
    }
    Ok(answer)
}
