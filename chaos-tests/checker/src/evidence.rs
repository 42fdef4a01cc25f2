//! A folder of evidence, read.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::Path,
};

use serde::de::DeserializeOwned;

use crate::{
    format::{Capture, Event, Heard, Line, Mark, Meta, Moment, Snapshot, files},
    rows::{
        Account, Action, Allocation, DeadLetter, Entry, Lot, Operation, Redemption, Return, Saga, Waiting,
    },
};

/// The tenders: by which name requests know them, and what their databases are called.
pub const TENDERS: [(&str, &str); 3] =
    [("points", "points"), ("store_credit", "store_credit"), ("digital_reward", "digital_rewards")];

/// Everything that was written down.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What the rest is to be read by.
    pub meta: Meta,
    /// What clients asked and were told.
    pub history: Vec<Line>,
    /// Views of the databases, by time.
    pub snapshots: Vec<Snapshot>,
    /// Live streams.
    pub streams: Vec<Heard>,
    /// Redemption events.
    pub events: Vec<Event>,
    /// When faults began and ended.
    pub marks: Vec<Mark>,
    /// Metrics and cache keys.
    pub captures: Vec<Capture>,
    /// What each process logged.
    pub logs: Vec<(String, String)>,
    /// The databases before the end.
    pub earlier: Vec<Dump>,
    /// The databases in the end.
    pub end: Dump,
}

/// All databases, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Dump {
    /// The wallet's.
    pub wallet: Wallet,
    /// Each tender's, by the name that requests know it by.
    pub ledgers: BTreeMap<&'static str, Ledger>,
}

/// The wallet's database.
#[derive(Debug, Clone, Default)]
pub struct Wallet {
    /// `saga.saga`.
    pub sagas: Vec<Saga>,
    /// `saga.dead_letter`.
    pub dead_letters: Vec<DeadLetter>,
    /// `saga.operator_action`.
    pub actions: Vec<Action>,
    /// `wallet.redemption`.
    pub redemptions: Vec<Redemption>,
    /// `wallet.outbox`.
    pub outbox: Vec<Waiting>,
}

/// A tender's database.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// `tender.account`.
    pub accounts: Vec<Account>,
    /// `tender.lot`.
    pub lots: Vec<Lot>,
    /// `tender.operation`.
    pub operations: Vec<Operation>,
    /// `tender.allocation`.
    pub allocations: Vec<Allocation>,
    /// `tender.allocation_reversal`.
    pub returns: Vec<Return>,
    /// `tender.entry`.
    pub entries: Vec<Entry>,
}

impl Evidence {
    /// Reads a folder.
    ///
    /// # Errors
    /// When a file cannot be read, or a line is not what it should be; the error says where.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut dumps = numbered(&folder.join(files::DUMPS))?.into_iter().map(|path| Dump::read(&path));
        let mut dumps = dumps.by_ref().collect::<io::Result<Vec<_>>>()?;
        let end = dumps.pop().unwrap_or_default();
        let meta = fs::read(folder.join(files::META))?;
        Ok(Self {
            meta: serde_json::from_slice(&meta)?,
            history: lines(&folder.join(files::HISTORY))?,
            snapshots: lines(&folder.join(files::SNAPSHOTS))?,
            streams: lines(&folder.join(files::STREAMS))?,
            events: lines(&folder.join(files::EVENTS))?,
            marks: lines(&folder.join(files::MARKS))?,
            captures: lines(&folder.join(files::CAPTURES))?,
            logs: logs(&folder.join(files::LOGS))?,
            earlier: dumps,
            end,
        })
    }

    /// The last of these moments; 0 where there was none.
    #[must_use]
    pub fn last(&self, what: Moment) -> u64 {
        self.marks.iter().filter(|mark| mark.what == what).map(|mark| mark.at).max().unwrap_or(0)
    }
}

impl Dump {
    fn read(folder: &Path) -> io::Result<Self> {
        let wallet = folder.join("wallet");
        let mut ledgers = BTreeMap::new();
        for (tender, database) in TENDERS {
            ledgers.insert(tender, Ledger::read(&folder.join(database))?);
        }
        Ok(Self {
            wallet: Wallet {
                sagas: table(&wallet, "saga")?,
                dead_letters: table(&wallet, "dead_letter")?,
                actions: table(&wallet, "operator_action")?,
                redemptions: table(&wallet, "redemption")?,
                outbox: table(&wallet, "outbox")?,
            },
            ledgers,
        })
    }
}

impl Ledger {
    fn read(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            accounts: table(folder, "account")?,
            lots: table(folder, "lot")?,
            operations: table(folder, "operation")?,
            allocations: table(folder, "allocation")?,
            returns: table(folder, "allocation_reversal")?,
            entries: table(folder, "entry")?,
        })
    }

    /// The entries of each account, by version.
    #[must_use]
    pub fn by_account(&self) -> HashMap<i64, Vec<&Entry>> {
        let mut accounts: HashMap<i64, Vec<&Entry>> = HashMap::new();
        for entry in &self.entries {
            if let Some(account) = entry.account_no {
                accounts.entry(account).or_default().push(entry);
            }
        }
        accounts.values_mut().for_each(|entries| entries.sort_by_key(|entry| entry.version));
        accounts
    }

    /// The entries on accounts of each operation.
    #[must_use]
    pub fn by_operation(&self) -> HashMap<&str, Vec<&Entry>> {
        let mut operations: HashMap<&str, Vec<&Entry>> = HashMap::new();
        for entry in self.entries.iter().filter(|entry| entry.account_no.is_some()) {
            operations.entry(&entry.operation_id).or_default().push(entry);
        }
        operations
    }
}

fn table<T: DeserializeOwned>(folder: &Path, name: &str) -> io::Result<Vec<T>> {
    lines(&folder.join(format!("{name}.jsonl")))
}

fn lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let parse = |(number, line)| {
        serde_json::from_str(line)
            .map_err(|error| io::Error::other(format!("{}:{}: {error}", path.display(), number + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

fn logs(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let mut logs = Vec::new();
    for path in listed(folder)? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        logs.push((name, String::from_utf8_lossy(&fs::read(&path)?).into_owned()));
    }
    Ok(logs)
}

/// What is in a folder whose entries have numbers for names, by number.
fn numbered(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut paths = listed(folder)?;
    let number = |path: &std::path::PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    paths.sort_by_key(number);
    Ok(paths)
}

fn listed(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
