//! A sound little world, in the files that the checker reads: what two businesses do in a minute, with everything that the
//! rules ask for.

mod holds;

use std::{collections::BTreeMap, fs, path::Path};

use chrono::DateTime;
use serde_json::{Value, json};

/// Tenders: as requests know them, their databases, and their assets.
const TENDERS: [(&str, &str, &str); 3] = [
    ("points", "points", "points"),
    ("store_credit", "store_credit", "USD"),
    ("digital_reward", "digital_rewards", "USD"),
];
const OPENING: i64 = 100;
/// 2026-01-01, in microseconds.
const MIDNIGHT: i64 = 1_767_225_600_000_000;
/// Everything is so many microseconds after what was before it.
const STEP: u64 = 1_000;

#[derive(Default)]
struct Purse {
    number: i64,
    posted: i64,
    held: i64,
    version: i64,
    lot: String,
    allocated: i64,
}

/// The files, by their names: a value a line.
#[derive(Default)]
pub struct World {
    pub meta: Value,
    pub files: BTreeMap<String, Vec<Value>>,
    pub logs: BTreeMap<String, String>,
    at: u64,
    calls: u64,
    purses: BTreeMap<(&'static str, &'static str, &'static str), Purse>,
}

/// Everything that may happen to a redemption, once.
pub fn sound() -> World {
    let mut world = World::default();
    let business = |name: &str| json!({ "name": name, "canary": format!("canary-of-{name}") });
    world.meta = json!({ "businesses": [business("shop"), business("annex")], "secrets": ["hunter2"], "redis_was_away": false });
    world
        .logs
        .insert("wallet-1".to_owned(), "{\"message\":\"answered\",\"business_id\":\"shop\"}\n".to_owned());
    for (business, customer) in [("shop", "ann"), ("shop", "bob"), ("annex", "ann")] {
        world.fund(business, customer);
    }
    world.expire(("points", "shop", "bob"), 10);
    world.watch("shop", "ann", 1);
    world.redeem("shop", "k1", "ann", 3);
    world.redeem("annex", "k1", "ann", 5);
    world.redeem("shop", "k2", "bob", 2);
    world.decline("shop", "k3", "ann", 4);
    world.seen_open(&["saga-shop-k3"]);
    world.mark("healed");
    world.mark("ready");
    world.seen_open(&[]);
    world.look_back();
    world.redeem("shop", "k4", "ann", 1);
    world.give_back("shop", "k4", "ann", 1);
    world.park_and_replay("shop", "k2");
    world.replay("shop", "k1");
    world.hold("shop", "k5", "bob", 4);
    world.capture("shop", "k5", "bob", [4, 1, 0]);
    world.hold("shop", "k6", "bob", 2);
    world.void("shop", "k6", "bob", 2);
    for customer in ["ann", "bob"] {
        world.read("shop", customer);
    }
    world.tell("shop", "ann", 1);
    world.mark("quiet");
    world.snapshot();
    world.push("captures.jsonl", json!({ "from": "metrics", "text": "http_requests_total 7" }));
    world.push(
        "captures.jsonl",
        json!({ "from": "cache", "text": "wallet:{5:annex:ann}:points\ncanary-of-annex" }),
    );
    world.close();
    world
}

impl World {
    /// Writes everything to a folder.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder.join("logs")).unwrap();
        fs::write(folder.join("meta.json"), self.meta.to_string()).unwrap();
        for (name, log) in &self.logs {
            fs::write(folder.join("logs").join(format!("{name}.log")), log).unwrap();
        }
        for (name, lines) in &self.files {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            fs::write(folder.join(name), lines.join("\n")).unwrap();
        }
    }

    /// The first line of a file that has this text in it.
    pub fn line(&mut self, file: &str, text: &str) -> &mut Value {
        let lines = self.files.get_mut(file).unwrap_or_else(|| panic!("no {file}"));
        lines
            .iter_mut()
            .find(|line| line.to_string().contains(text))
            .unwrap_or_else(|| panic!("no {text} in {file}"))
    }

    /// Another line of a file.
    pub fn push(&mut self, file: &str, line: Value) {
        self.files.entry(file.to_owned()).or_default().push(line);
    }

    fn row(&mut self, table: &str, row: Value) {
        self.push(&format!("dumps/2/{table}.jsonl"), row);
    }

    fn tick(&mut self) -> u64 {
        self.at += STEP;
        self.at
    }

    fn time(&self) -> String {
        let at = MIDNIGHT + i64::try_from(self.at).unwrap();
        DateTime::from_timestamp_micros(at).unwrap().to_rfc3339()
    }

    fn mark(&mut self, what: &str) {
        let at = self.tick();
        self.push("marks.jsonl", json!({ "at": at, "what": what }));
    }

    fn call(&mut self, call: &Value, work: impl FnOnce(&mut Self) -> (u16, String)) {
        self.calls += 1;
        let number = self.calls;
        let mut line = json!({ "at": self.tick(), "process": "till", "call": number, "type": "invoke" });
        line.as_object_mut().unwrap().extend(call.as_object().unwrap().clone());
        self.push("history.jsonl", line);
        let (status, body) = work(self);
        let at = self.tick();
        self.push(
            "history.jsonl",
            json!({ "at": at, "process": "till", "call": number, "type": "ok", "status": status, "body": body }),
        );
    }

    /// Two entries of an operation; what is left.
    fn post(
        &mut self,
        of: (&'static str, &'static str, &'static str),
        operation: &str,
        kind: &str,
        amount: i64,
    ) -> i64 {
        let (_, database, asset) = TENDERS.into_iter().find(|tender| tender.0 == of.0).unwrap();
        let time = self.time();
        let purse = self.purses.get_mut(&of).unwrap();
        purse.posted += amount;
        purse.version += 1;
        let (number, version, posted, held) = (purse.number, purse.version, purse.posted, purse.held);
        let entry = json!({ "operation_id": operation, "business_id": of.1, "asset": asset, "kind": kind, "created_at": time });
        let with = |fields: Value| {
            let mut entry = entry.clone();
            entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            entry
        };
        let table = format!("{database}/entry");
        self.row(&table, with(json!({ "amount": amount, "account_no": number, "version": version, "balance_after": posted, "held_after": held })));
        if amount != 0 {
            self.row(&table, with(json!({ "amount": -amount, "contra": "redeemed" })));
        }
        posted - held
    }

    fn fund(&mut self, business: &'static str, customer: &'static str) {
        for (tender, database, _) in TENDERS {
            let number = i64::try_from(self.purses.len()).unwrap() + 1;
            let lot = format!("lot-{number}");
            let of = (tender, business, customer);
            self.purses.insert(of, Purse { number, lot, ..Purse::default() });
            let id = format!("credit-{number}");
            let call = json!({ "f": "credit", "business": business, "customer": customer, "tender": tender, "units": OPENING });
            self.call(&call, |world| {
                world.post(of, &id, "credit", OPENING);
                world.row(
                    &format!("{database}/operation"),
                    json!({ "operation_id": id, "account_no": number, "kind": "credit", "state": "applied" }),
                );
                (201, json!({ "operation_id": id }).to_string())
            });
        }
    }

    /// Some of a lot comes to its end: an operation that nobody asked for.
    fn expire(&mut self, of: (&'static str, &'static str, &'static str), units: i64) {
        let (_, database, _) = TENDERS.into_iter().find(|tender| tender.0 == of.0).unwrap();
        let (number, lot) = (self.purses[&of].number, self.purses[&of].lot.clone());
        let id = format!("expire-{lot}");
        self.post(of, &id, "expire", -units);
        self.purses.get_mut(&of).unwrap().allocated += units;
        self.row(
            &format!("{database}/allocation"),
            json!({ "operation_id": id, "position": 0, "lot_id": lot, "amount": units, "reversed": 0 }),
        );
        self.row(
            &format!("{database}/operation"),
            json!({ "operation_id": id, "account_no": number, "kind": "expire", "state": "applied" }),
        );
    }

    /// One leg that takes, and gives back if that is its state.
    fn leg(
        &mut self,
        of: (&'static str, &'static str, &'static str),
        key: &str,
        leg: usize,
        units: i64,
        state: &str,
    ) -> i64 {
        let database = TENDERS[leg].1;
        let id = format!("op-{}-{key}-{leg}", of.1);
        let (number, lot) = (self.purses[&of].number, self.purses[&of].lot.clone());
        let mut left = self.purses[&of].posted;
        let has_taken = state != "declined";
        let has_returned = state == "reversed";
        if has_taken {
            left = self.post(of, &id, "debit", -units);
        }
        if has_returned {
            left = self.post(of, &id, "cancel", units);
            self.row(
                &format!("{database}/allocation_reversal"),
                json!({ "operation_id": id, "position": 0, "amount": units }),
            );
        }
        if has_taken {
            let reversed = if has_returned { units } else { 0 };
            self.purses.get_mut(&of).unwrap().allocated += units - reversed;
            self.row(
                &format!("{database}/allocation"),
                json!({ "operation_id": id, "position": 0, "lot_id": lot, "amount": units, "reversed": reversed }),
            );
        }
        self.row(
            &format!("{database}/operation"),
            json!({ "operation_id": id, "account_no": number, "kind": "debit", "state": state, "legs_id": format!("legs-{}-{key}", of.1), "leg": leg }),
        );
        left
    }

    fn saga(&mut self, business: &str, key: &str, units: i64, state: i64, answer: Option<&str>) {
        let hexadecimal: String =
            answer.unwrap_or_default().bytes().map(|byte| format!("{byte:02x}")).collect();
        let legs: Vec<Value> =
            (0..3).map(|leg| json!({ "leg": leg, "tender": TENDERS[leg].0, "units": units })).collect();
        self.row(
            "wallet/saga",
            json!({ "saga_id": format!("saga-{business}-{key}"), "business_id": business, "operation": "redeem", "scope": "", "key": key,
                "legs_id": format!("legs-{business}-{key}"), "plan": { "legs": legs }, "state": state, "backward": state == 3,
                "epoch": 1, "key_cancelled": false, "response": answer.map(|_| format!("\\x{hexadecimal}")) }),
        );
    }

    fn event(&mut self, business: &str, key: &str, status: &str, reversal: Option<&str>) {
        let number = self.files.get("events.jsonl").map_or(0, Vec::len);
        let mut event = json!({ "event_id": format!("event-{number}"), "type": format!("wallet.redemption_{status}"),
            "business_id": business, "redemption_id": format!("saga-{business}-{key}") });
        if let Some(reversal) = reversal {
            event["reversal"] = json!(reversal);
        }
        let at = self.tick();
        self.push(
            "events.jsonl",
            json!({ "at": at, "id": format!("{number}-0"), "event_id": format!("event-{number}"), "event": event.to_string() }),
        );
    }

    fn asking(business: &str, key: &str, customer: &str, units: [i64; 3]) -> Value {
        let legs: Vec<Value> = TENDERS
            .iter()
            .zip(units)
            .map(|(tender, units)| json!({ "tender": tender.0, "units": units }))
            .collect();
        json!({ "f": "redeem", "business": business, "key": key, "customer": customer, "legs": legs })
    }

    fn redeem(&mut self, business: &'static str, key: &str, customer: &'static str, units: i64) {
        self.call(&Self::asking(business, key, customer, [units; 3]), |world| {
            let tenders: Vec<Value> = (0..3)
                .map(|leg| {
                    let left = world.leg((TENDERS[leg].0, business, customer), key, leg, units, "applied");
                    json!({ "leg": leg, "type": TENDERS[leg].0, "amount": units, "balance_after": { "amount": left } })
                })
                .collect();
            let body = json!({ "id": format!("saga-{business}-{key}"), "amount": 3 * units, "redeemed": 3 * units, "amount_due": 0,
                "order_id": format!("canary-of-{business}"), "tenders": tenders });
            world.saga(business, key, units, 2, Some(&body.to_string()));
            world.row(
                "wallet/redemption",
                json!({ "redemption_id": format!("saga-{business}-{key}"), "redeemed": 3 * units, "status": "completed", "tenders": tenders }),
            );
            (201, body.to_string())
        });
        self.event(business, key, "completed", None);
        self.balance(business, customer);
        self.snapshot();
    }

    /// Store credit has too little; points and the reward were taken, and are given back.
    fn decline(&mut self, business: &'static str, key: &str, customer: &'static str, units: i64) {
        self.call(&Self::asking(business, key, customer, [units, 1_000, units]), |world| {
            world.leg(("points", business, customer), key, 0, units, "reversed");
            let available = world.leg(("store_credit", business, customer), key, 1, 1_000, "declined");
            world.leg(("digital_reward", business, customer), key, 2, units, "reversed");
            let body = json!({ "code": "insufficient_balance", "leg": 1, "available": available, "reversal": "done",
                "returned": [{ "leg": 0, "amount": units }, { "leg": 2, "amount": units }] })
            .to_string();
            world.saga(business, key, units, 3, Some(&body));
            world.row(
                "wallet/redemption",
                json!({ "redemption_id": format!("saga-{business}-{key}"), "redeemed": 0, "status": "declined", "reversal": "done", "tenders": [] }),
            );
            (422, body)
        });
        self.event(business, key, "declined", Some("done"));
    }

    /// A completed redemption is cancelled by its key.
    fn give_back(&mut self, business: &'static str, key: &str, customer: &'static str, units: i64) {
        self.call(&json!({ "f": "cancel", "business": business, "key": key }), |_| (200, "{}".to_owned()));
        for (leg, (tender, database, _)) in TENDERS.into_iter().enumerate() {
            let (of, id) = ((tender, business, customer), format!("op-{business}-{key}-{leg}"));
            self.post(of, &id, "cancel", units);
            self.purses.get_mut(&of).unwrap().allocated -= units;
            self.row(
                &format!("{database}/allocation_reversal"),
                json!({ "operation_id": id, "position": 0, "amount": units }),
            );
            self.line(&format!("dumps/2/{database}/allocation.jsonl"), &id)["reversed"] = json!(units);
            self.line(&format!("dumps/2/{database}/operation.jsonl"), &id)["state"] = json!("reversed");
        }
        let parent = format!("saga-{business}-{key}");
        let saga = self.line("dumps/2/wallet/saga.jsonl", &parent);
        saga["key_cancelled"] = json!(true);
        let mut back = saga.clone();
        back["saga_id"] = json!(format!("return-{key}"));
        back["operation"] = json!("reversal");
        back["parent_id"] = json!(parent);
        back["response"] = Value::Null;
        self.row("wallet/saga", back);
        self.line("dumps/2/wallet/redemption.jsonl", &parent)["status"] = json!("reversed");
        self.event(business, key, "reversed", None);
    }

    fn park_and_replay(&mut self, business: &str, key: &str) {
        let time = self.time();
        let saga = format!("saga-{business}-{key}");
        self.row("wallet/dead_letter", json!({ "dead_letter_id": "letter", "saga_id": saga, "detail": { "pending_legs": [0] }, "closed_at": time }));
        self.row(
            "wallet/operator_action",
            json!({ "action_id": 1, "business_id": business, "operation_id": "again", "dead_letter_id": "letter", "accepted": true }),
        );
        self.seen_open(&[&saga]);
        self.seen_open(&[]);
    }

    /// A view of the wallet's database, with sagas that are not over.
    fn seen_open(&mut self, sagas: &[&str]) {
        let at = self.tick();
        let open = |saga: &&str| json!({ "saga_id": saga, "state": 1, "epoch": 1, "beat_ago_ms": 200 });
        let open: Vec<Value> = sagas.iter().map(open).collect();
        self.push("snapshots.jsonl", json!({ "from": at, "until": at, "database": "wallet", "sagas": open }));
    }

    /// The same is asked again, and answered as before.
    fn replay(&mut self, business: &str, key: &str) {
        let asked = self.line("history.jsonl", &format!("\"key\":\"{key}\"")).clone();
        assert_eq!(asked["business"], business);
        let number = asked["call"].clone();
        let mut answers = self.files["history.jsonl"].iter().rev().filter(|line| line["call"] == number);
        let answer = answers.next().unwrap()["body"].as_str().unwrap().to_owned();
        let mut again = asked;
        for field in ["at", "process", "call", "type"] {
            again.as_object_mut().unwrap().remove(field);
        }
        self.call(&again, |_| (200, answer));
    }

    fn balances(&self, business: &str, customer: &str) -> Vec<Value> {
        let own = self.purses.iter().filter(|((_, b, c), _)| (*b, *c) == (business, customer));
        own.map(|((tender, ..), purse)| json!({ "tender": tender, "available": purse.posted - purse.held, "version": purse.version }))
            .collect()
    }

    fn balance(&mut self, business: &str, customer: &str) {
        let call = json!({ "f": "balance", "business": business, "customer": customer });
        self.call(&call, |world| {
            (200, json!({ "balances": world.balances(business, customer) }).to_string())
        });
    }

    fn read(&mut self, business: &str, customer: &str) {
        for line in self.balances(business, customer) {
            let call =
                json!({ "f": "read", "business": business, "customer": customer, "tender": line["tender"] });
            self.call(&call, |_| (200, line.to_string()));
        }
    }

    fn hear(&mut self, business: &str, customer: &str, connection: u64, message: &Value) {
        let at = self.tick();
        self.push(
            "streams.jsonl",
            json!({ "at": at, "subscriber": "phone", "connection": connection, "business": business, "customer": customer,
                "message": message.to_string() }),
        );
    }

    fn watch(&mut self, business: &str, customer: &str, connection: u64) {
        let balances = self.balances(business, customer);
        self.hear(
            business,
            customer,
            connection,
            &json!({ "type": "wallet.snapshot", "balances": balances }),
        );
    }

    /// A subscriber hears what every account has come to.
    fn tell(&mut self, business: &str, customer: &str, connection: u64) {
        for line in self.balances(business, customer) {
            let message = json!({ "type": "wallet.balance_updated", "tender": line["tender"], "version": line["version"],
                "balance": { "available": line["available"] } });
            self.hear(business, customer, connection, &message);
        }
    }

    fn snapshot(&mut self) {
        for (tender, database, asset) in TENDERS {
            let at = self.tick();
            let own = || self.purses.iter().filter(|((t, ..), _)| *t == tender);
            let accounts: Vec<Value> = own()
                .map(|((_, business, owner), purse)| {
                    json!({ "business_id": business, "owner": owner, "posted": purse.posted, "version": purse.version,
                        "entries": purse.posted, "lots": purse.posted })
                })
                .collect();
            let total = |business: &str| {
                let sum: i64 =
                    own().filter(|((_, b, _), _)| *b == business).map(|(_, purse)| purse.posted).sum();
                json!({ "business_id": business, "asset": asset, "posted": sum, "lots": sum, "entries": sum, "contra": -sum })
            };
            let totals = [total("shop"), total("annex")];
            self.push(
                "snapshots.jsonl",
                json!({ "from": at, "until": at, "database": database, "accounts": accounts, "totals": totals }),
            );
        }
    }

    /// An earlier dump of what must not change.
    fn look_back(&mut self) {
        for (_, database, _) in TENDERS {
            for table in ["entry", "allocation_reversal"] {
                let rows = self.files.get(&format!("dumps/2/{database}/{table}.jsonl")).cloned();
                self.files.insert(format!("dumps/1/{database}/{table}.jsonl"), rows.unwrap_or_default());
            }
        }
    }

    fn close(&mut self) {
        for ((tender, business, owner), purse) in std::mem::take(&mut self.purses) {
            let database = TENDERS.into_iter().find(|other| other.0 == tender).unwrap().1;
            let Purse { number, posted, held, version, lot, allocated } = purse;
            self.row(
                &format!("{database}/account"),
                json!({ "account_no": number, "business_id": business, "owner": owner, "posted": posted, "held": held, "version": version }),
            );
            self.row(
                &format!("{database}/lot"),
                json!({ "account_no": number, "lot_id": lot, "original": OPENING, "remaining": OPENING - allocated, "held": held }),
            );
        }
    }
}
