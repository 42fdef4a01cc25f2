//! What happens in a scenario, written down while it happens, for the checker.
//!
//! One clock for everything, one file a topic, one line a thing. What is written is decided in the crate `checker`.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use checker::format::{
    Answer, Business, Call, Capture, Event, Heard, Line, Mark, Meta, Moment, Snapshot, Step, files,
};
use serde::Serialize;

use crate::business::{BUSINESS, CONTACT, OTHER, PEPPER, canary};

/// Where things are written down. Clones write to the same place; the default writes nowhere.
#[derive(Debug, Clone, Default)]
pub struct Evidence(Option<Arc<Files>>);

#[derive(Debug)]
struct Files {
    folder: PathBuf,
    meta: Mutex<Meta>,
    begun: Instant,
    calls: AtomicU64,
    connections: AtomicU64,
    history: Topic,
    snapshots: Topic,
    streams: Topic,
    events: Topic,
    marks: Topic,
    captures: Topic,
}

#[derive(Debug)]
struct Topic(Mutex<BufWriter<File>>);

/// A call that was asked. Dropped without a word, nobody knows what came of it.
#[derive(Debug)]
pub(crate) struct Asked {
    evidence: Evidence,
    process: String,
    call: u64,
}

impl Evidence {
    /// A new folder. `redis_was_away`, `database_forgot`: as in [`Meta`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(redis_was_away: bool, database_forgot: bool) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("chaos-evidence-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&folder)?;
        let business = |name: &str| Business { name: name.to_owned(), canary: canary(name) };
        let meta = Meta {
            businesses: [BUSINESS, OTHER].map(business).to_vec(),
            secrets: vec![CONTACT.to_owned(), PEPPER.to_owned()],
            redis_was_away,
            database_forgot,
        };
        let topic =
            |name| Ok::<_, io::Error>(Topic(Mutex::new(BufWriter::new(File::create(folder.join(name))?))));
        Ok(Self(Some(Arc::new(Files {
            meta: Mutex::new(meta),
            begun: Instant::now(),
            calls: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            history: topic(files::HISTORY)?,
            snapshots: topic(files::SNAPSHOTS)?,
            streams: topic(files::STREAMS)?,
            events: topic(files::EVENTS)?,
            marks: topic(files::MARKS)?,
            captures: topic(files::CAPTURES)?,
            folder,
        }))))
    }

    /// Where it is, if anywhere.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.0.as_ref().map(|files| files.folder.as_path())
    }

    /// Microseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |files| u64::try_from(files.begun.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Writes down what is about to be asked.
    pub(crate) fn ask(&self, process: &str, call: Call) -> Asked {
        let number = self.0.as_ref().map_or(0, |files| files.calls.fetch_add(1, Ordering::Relaxed));
        let asked = Asked { evidence: self.clone(), process: process.to_owned(), call: number };
        asked.step(Step::Invoke(call));
        asked
    }

    /// A number for a new connection.
    pub(crate) fn connection(&self) -> u64 {
        self.0.as_ref().map_or(0, |files| 1 + files.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// Somebody could not use Redis, whether a fault was on it or not.
    pub(crate) fn redis_was_away(&self) {
        if let Some(files) = &self.0 {
            files.meta.lock().unwrap_or_else(PoisonError::into_inner).redis_was_away = true;
        }
    }

    pub(crate) fn mark(&self, what: Moment) {
        self.write(|files| &files.marks, &Mark { at: self.now(), what });
    }

    pub(crate) fn snapshot(&self, snapshot: &Snapshot) {
        self.write(|files| &files.snapshots, snapshot);
    }

    pub(crate) fn heard(&self, heard: &Heard) {
        self.write(|files| &files.streams, heard);
    }

    pub(crate) fn event(&self, event: &Event) {
        self.write(|files| &files.events, event);
    }

    pub(crate) fn capture(&self, capture: &Capture) {
        self.write(|files| &files.captures, capture);
    }

    /// Makes sure that everything is in its file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&self) -> io::Result<()> {
        let Some(files) = &self.0 else { return Ok(()) };
        let Files { meta, folder, history, snapshots, streams, events, marks, captures, .. } = &**files;
        let meta = serde_json::to_vec(&*meta.lock().unwrap_or_else(PoisonError::into_inner))?;
        fs::write(folder.join(files::META), meta)?;
        for topic in [history, snapshots, streams, events, marks, captures] {
            topic.0.lock().unwrap_or_else(PoisonError::into_inner).flush()?;
        }
        Ok(())
    }

    fn write(&self, topic: impl Fn(&Files) -> &Topic, value: &impl Serialize) {
        let Some(files) = &self.0 else { return };
        let mut line = serde_json::to_vec(value).expect("JSON");
        line.push(b'\n');
        let mut file = topic(files).0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).expect("room for evidence");
    }
}

impl Asked {
    /// It was answered.
    pub(crate) fn ok(self, status: u16, body: &[u8]) {
        self.step(Step::Ok(Answer { status, body: String::from_utf8_lossy(body).into_owned() }));
    }

    /// It certainly did nothing.
    pub(crate) fn fail(self) {
        self.step(Step::Fail);
    }

    /// Nobody knows what came of it.
    pub(crate) fn info(self) {
        self.step(Step::Info);
    }

    fn step(&self, step: Step) {
        let line = Line { at: self.evidence.now(), process: self.process.clone(), call: self.call, step };
        self.evidence.write(|files| &files.history, &line);
    }
}
