//! Redemptions that set aside first: what each of them, its capture and its void leave behind.

use serde_json::{Value, json};

use super::{TENDERS, World};

impl World {
    /// Everything that a redemption sets aside, at all tenders.
    pub(super) fn hold(&mut self, business: &'static str, key: &str, customer: &'static str, units: i64) {
        let mut call = Self::asking(business, key, customer, [units; 3]);
        (call["hold"], call["place"]) = (json!(true), json!(format!("till/{key}")));
        self.call(&call, |world| {
            let tenders: Vec<Value> = (0..3)
                .map(|leg| {
                    let (tender, database, _) = TENDERS[leg];
                    let (of, id) = ((tender, business, customer), format!("op-{business}-{key}-{leg}"));
                    let purse = world.purses.get_mut(&of).unwrap();
                    purse.held += units;
                    purse.allocated += units;
                    let (number, lot) = (purse.number, purse.lot.clone());
                    let left = world.post(of, &id, "hold", 0);
                    world.row(
                        &format!("{database}/allocation"),
                        json!({ "operation_id": id, "position": 0, "lot_id": lot, "amount": units, "reversed": 0 }),
                    );
                    world.row(
                        &format!("{database}/operation"),
                        json!({ "operation_id": id, "account_no": number, "kind": "hold", "state": "held", "legs_id": format!("legs-{business}-{key}"), "leg": leg }),
                    );
                    json!({ "leg": leg, "type": tender, "amount": units, "balance_after": { "amount": left } })
                })
                .collect();
            let body = json!({ "id": format!("saga-{business}-{key}"), "amount": 3 * units, "redeemed": 3 * units, "amount_due": 0,
                "status": "authorized", "order_id": format!("canary-of-{business}"), "tenders": tenders });
            world.saga(business, key, units, 2, Some(&body.to_string()));
            let id = format!("saga-{business}-{key}");
            world.line("dumps/2/wallet/saga.jsonl", &id)["plan"]["capture"] = json!("manual");
            world.row(
                "wallet/redemption",
                json!({ "redemption_id": id, "redeemed": 3 * units, "status": "authorized", "tenders": tenders }),
            );
            (201, body.to_string())
        });
        self.event(business, key, "authorized", None);
        self.balance(business, customer);
    }

    /// So much of what each leg has set aside is taken, and the rest is free again.
    fn end_hold(&mut self, of: (&'static str, &'static str, &'static str), id: &str, taken: i64) {
        let (_, database, _) = TENDERS.into_iter().find(|tender| tender.0 == of.0).unwrap();
        let allocation = self.line(&format!("dumps/2/{database}/allocation.jsonl"), id);
        let rest = allocation["amount"].as_i64().unwrap() - taken;
        allocation["reversed"] = json!(rest);
        let state = if taken > 0 { "applied" } else { "reversed" };
        self.line(&format!("dumps/2/{database}/operation.jsonl"), id)["state"] = json!(state);
        if rest > 0 {
            let row = json!({ "operation_id": id, "position": 0, "amount": rest });
            self.row(&format!("{database}/allocation_reversal"), row);
        }
        let purse = self.purses.get_mut(&of).unwrap();
        purse.held -= taken + rest;
        purse.allocated -= rest;
        self.post(of, id, if taken > 0 { "capture" } else { "release" }, -taken);
    }

    /// A saga that takes a redemption further, as a copy of the redemption's own.
    fn further(&mut self, business: &str, key: &str, operation: &str, plan: &Value) {
        let parent = format!("saga-{business}-{key}");
        let mut saga = self.line("dumps/2/wallet/saga.jsonl", &parent).clone();
        (saga["saga_id"], saga["key"]) =
            (json!(format!("{operation}-{key}")), json!(format!("{key}-settled")));
        (saga["operation"], saga["parent_id"]) = (json!(operation), json!(parent));
        saga["legs_id"] = json!(format!("legs-{operation}-{key}"));
        (saga["plan"], saga["response"]) = (plan.clone(), Value::Null);
        self.row("wallet/saga", saga);
    }

    pub(super) fn capture(
        &mut self,
        business: &'static str,
        key: &str,
        customer: &'static str,
        units: [i64; 3],
    ) {
        let amount: i64 = units.iter().sum();
        let call = json!({ "f": "capture", "business": business, "key": format!("{key}-settled"), "of": key, "amount": amount });
        let id = format!("saga-{business}-{key}");
        self.call(&call, |world| {
            let mut legs = Vec::new();
            let mut tenders = Vec::new();
            for (leg, ((tender, ..), units)) in TENDERS.into_iter().zip(units).enumerate() {
                world.end_hold((tender, business, customer), &format!("op-{business}-{key}-{leg}"), units);
                legs.push(json!({ "leg": leg, "tender": tender, "units": units }));
                if units > 0 {
                    tenders.push(json!({ "leg": leg, "type": tender, "amount": units }));
                }
            }
            world.further(business, key, "capture", &json!({ "legs": legs }));
            let redemption = world.line("dumps/2/wallet/redemption.jsonl", &id);
            (redemption["status"], redemption["redeemed"]) = (json!("completed"), json!(amount));
            redemption["tenders"] = json!(tenders);
            let whole = json!({ "id": id, "amount": 12, "redeemed": amount, "amount_due": 12 - amount, "tenders": tenders });
            (201, whole.to_string())
        });
        self.event(business, key, "captured", None);
        self.balance(business, customer);
    }

    pub(super) fn void(&mut self, business: &'static str, key: &str, customer: &'static str, units: i64) {
        let call = json!({ "f": "void", "business": business, "key": format!("{key}-settled"), "of": key });
        self.call(&call, |world| {
            let mut legs = Vec::new();
            for (leg, (tender, ..)) in TENDERS.into_iter().enumerate() {
                world.end_hold((tender, business, customer), &format!("op-{business}-{key}-{leg}"), 0);
                legs.push(json!({ "leg": leg, "tender": tender, "units": units }));
            }
            world.further(business, key, "void", &json!({ "why": "void", "legs": legs }));
            let id = format!("saga-{business}-{key}");
            world.line("dumps/2/wallet/redemption.jsonl", &id)["status"] = json!("voided");
            (201, "{}".to_owned())
        });
        self.event(business, key, "voided", None);
        self.balance(business, customer);
    }
}
