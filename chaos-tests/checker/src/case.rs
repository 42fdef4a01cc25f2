//! The evidence, laid out as the rules ask for it.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    calls::{Key, Made, Sale, calls, sales},
    evidence::{Evidence, Ledger},
    rows::{Account, CAPTURE, Entry, Operation, REDEEM, RETURN, Redemption, Saga, VOID},
};

/// A business, a customer of it, and a tender.
pub type Wallet<'a> = (&'a str, &'a str, &'a str);

/// Evidence with its calls put together and its rows found by their keys.
pub struct Case<'a> {
    /// What was written down.
    pub evidence: &'a Evidence,
    /// Every call that may have done something.
    pub calls: Vec<Made<'a>>,
    /// All sales, by key.
    pub sales: BTreeMap<Key<'a>, Sale<'a>>,
    /// The saga of each redeem.
    pub redeems: HashMap<Key<'a>, &'a Saga>,
    /// Redemptions, by id.
    pub redemptions: HashMap<&'a str, &'a Redemption>,
    /// Legs of sagas: by tender, the id of all of a saga's legs, and number.
    pub legs: HashMap<(&'a str, &'a str, i32), Vec<&'a Operation>>,
    /// What is in the ledgers.
    pub books: BTreeMap<&'a str, Book<'a>>,
    /// The account of each customer in each tender.
    pub accounts: HashMap<Wallet<'a>, &'a Account>,
    /// Redemptions that a saga set out to give back.
    pub given_back: HashSet<&'a str>,
    /// Redemptions that a saga set out to capture, and that saga.
    pub captured: HashMap<&'a str, &'a Saga>,
}

/// One ledger, in the end.
pub struct Book<'a> {
    /// Its rows.
    pub ledger: &'a Ledger,
    /// Entries of each account, by version.
    pub by_account: HashMap<i64, Vec<&'a Entry>>,
    /// Entries on accounts of each operation.
    pub by_operation: HashMap<&'a str, Vec<&'a Entry>>,
}

impl<'a> Case<'a> {
    /// Lays evidence out.
    #[must_use]
    pub fn new(evidence: &'a Evidence) -> Self {
        let calls = calls(&evidence.history);
        let sales = sales(&calls);
        let wallet = &evidence.end.wallet;
        let redeem = |saga: &'a Saga| {
            (saga.operation == REDEEM && saga.scope.is_empty())
                .then_some(((saga.business_id.as_str(), saga.key.as_str()), saga))
        };
        // A saga that takes a redemption further; one that was refused does not.
        let further = |saga: &'a Saga| Some((saga.parent_id.as_deref()?, saga)).filter(|_| saga.has_effect());
        let gives_back = |saga: &Saga| matches!(saga.operation.as_str(), RETURN | VOID);
        let mut case = Self {
            evidence,
            calls,
            sales,
            redeems: wallet.sagas.iter().filter_map(redeem).collect(),
            redemptions: wallet.redemptions.iter().map(|row| (row.redemption_id.as_str(), row)).collect(),
            legs: HashMap::new(),
            books: BTreeMap::new(),
            accounts: HashMap::new(),
            given_back: wallet
                .sagas
                .iter()
                .filter(|saga| gives_back(saga))
                .filter_map(|saga| Some(further(saga)?.0))
                .collect(),
            captured: wallet
                .sagas
                .iter()
                .filter(|saga| saga.operation == CAPTURE)
                .filter_map(further)
                .collect(),
        };
        for (tender, ledger) in &evidence.end.ledgers {
            for operation in &ledger.operations {
                if let (Some(legs_id), Some(leg)) = (&operation.legs_id, operation.leg) {
                    case.legs.entry((tender, legs_id, leg)).or_default().push(operation);
                }
            }
            for account in &ledger.accounts {
                case.accounts.insert((&account.business_id, &account.owner, tender), account);
            }
            let book = Book { ledger, by_account: ledger.by_account(), by_operation: ledger.by_operation() };
            case.books.insert(tender, book);
        }
        case
    }

    /// What a leg of a saga posted to its account, in the order of versions; nothing where it posted nothing.
    pub fn posted(&self, tender: &str, legs_id: &str, leg: i32) -> Vec<&'a Entry> {
        let Some(book) = self.books.get(tender) else { return Vec::new() };
        let operations = self.legs.get(&(tender, legs_id, leg)).into_iter().flatten();
        let entries =
            operations.filter_map(|operation| book.by_operation.get(operation.operation_id.as_str()));
        let mut entries: Vec<&Entry> = entries.flatten().copied().collect();
        entries.sort_by_key(|entry| entry.version);
        entries
    }

    /// The entries of a customer's account, by version.
    pub fn entries(&self, wallet: Wallet<'_>) -> &[&'a Entry] {
        let account = self.accounts.get(&wallet);
        let book = self.books.get(wallet.2);
        account
            .zip(book)
            .and_then(|(account, book)| book.by_account.get(&account.account_no))
            .map_or(&[], Vec::as_slice)
    }

    /// What was free in an account at a version.
    pub fn free_at(&self, wallet: Wallet<'_>, version: i64) -> Option<i64> {
        if version == 0 {
            return Some(0);
        }
        let entry = self.entries(wallet).iter().find(|entry| entry.version == Some(version))?;
        Some(entry.balance_after? - entry.held_after?)
    }

    /// By how much each entry of a leg changed what is free in its account: what is set aside is not free.
    pub fn freed(&self, customer: (&str, &str), (tender, legs_id, leg): (&str, &str, i32)) -> Vec<i64> {
        let wallet = (customer.0, customer.1, tender);
        let change = |entry: &&Entry| match entry.kind.as_str() {
            "hold" | "release" | "capture" => Some(entry.amount - self.set_aside(wallet, entry)?),
            _ => Some(entry.amount),
        };
        self.posted(tender, legs_id, leg).iter().filter_map(change).collect()
    }

    /// How much more than before is set aside after an entry.
    fn set_aside(&self, wallet: Wallet<'_>, entry: &Entry) -> Option<i64> {
        let before = self.entries(wallet).iter().rfind(|other| other.version < entry.version);
        Some(entry.held_after? - before.map_or(Some(0), |before| before.held_after)?)
    }
}
