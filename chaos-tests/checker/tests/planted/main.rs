//! A check that cannot fail is worthless: something is wrong in an otherwise sound world, and the checker finds exactly that.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::{fs, path::PathBuf};

use checker::{Invariant, Report, Violation, check_folder};
use serde_json::{Value, json};
use world::{World, sound};

const SAGAS: &str = "dumps/2/wallet/saga.jsonl";

fn checked(name: &str, world: &World) -> Report {
    let folder: PathBuf = std::env::temp_dir().join(format!("planted-{}-{name}", std::process::id()));
    world.write(&folder);
    let report = check_folder(&folder).unwrap();
    fs::remove_dir_all(folder).unwrap();
    report
}

/// The rules that are broken after this was done to a sound world.
#[track_caller]
fn finds(name: &str, expected: Invariant, plant: impl FnOnce(&mut World)) {
    let mut world = sound();
    plant(&mut world);
    let Report { violations, .. } = checked(name, &world);
    assert!(!violations.is_empty(), "{expected} is not found");
    let others: Vec<&Violation> = violations.iter().filter(|found| found.invariant != expected).collect();
    assert!(others.is_empty(), "{others:#?}");
}

/// Changes an answer or a message, which is a text within a line.
fn change(text: &mut Value, from: &str, to: &str) {
    let old = text.as_str().unwrap();
    assert!(old.contains(from), "no {from} in {old}");
    *text = json!(old.replacen(from, to, 1));
}

/// The call after the first with this text in its line, and then this one.
fn answer<'a>(world: &'a mut World, call: &str) -> &'a mut Value {
    let number = world.line("history.jsonl", call)["call"].clone();
    let lines = world.files.get_mut("history.jsonl").unwrap().iter_mut();
    &mut lines.filter(|line| line["call"] == number).last().unwrap()["body"]
}

#[test]
fn a_sound_world_is_sound() {
    let report = checked("sound", &sound());
    assert_eq!(report.violations, []);
    assert!(report.counts.nothing_of().is_empty(), "{:?}", report.counts);
}

#[test]
fn nothing_at_all_is_not_well() {
    let mut empty = World::default();
    empty.meta = json!({ "businesses": [], "secrets": [], "redis_was_away": false });
    assert_eq!(checked("empty", &empty).counts.nothing_of().len(), 5);
}

#[test]
fn i1_value_is_made_in_between() {
    finds("i1", Invariant::I1, |world| {
        world.line("snapshots.jsonl", "totals")["totals"][0]["posted"] = json!(7)
    });
}

#[test]
fn i2_a_key_acts_twice() {
    finds("i2-key", Invariant::I2, |world| {
        let mut again = world.line(SAGAS, "return-k4").clone();
        again["saga_id"] = json!("another");
        world.push(SAGAS, again);
    });
    finds("i2-leg", Invariant::I2, |world| {
        let file = "dumps/2/points/operation.jsonl";
        let mut again = world.line(file, "op-shop-k3-0").clone();
        again["operation_id"] = json!("another");
        world.push(file, again);
    });
}

/// Two keys for one sale of one till, and both took.
#[test]
fn i2_a_sale_is_taken_under_two_keys() {
    finds("i2-place", Invariant::I2, |world| {
        let asked = world.files.get_mut("history.jsonl").unwrap().iter_mut();
        for line in asked.filter(|line| line["f"] == "redeem" && line["business"] == "shop") {
            line["place"] = json!("till/1");
        }
        // Both are in force.
        let redemptions = world.files.get_mut("dumps/2/wallet/redemption.jsonl").unwrap();
        assert!(redemptions.iter().filter(|row| row["status"] == "completed").count() > 1);
    });
}

/// A key is refused for a sale that was refused before under another one, and so is open to be sold.
#[test]
fn i12_a_sale_that_was_refused_before_cannot_be_sold() {
    finds("i12-place", Invariant::I12, |world| {
        for key in ["k3", "k7"] {
            let body = json!({ "code": if key == "k7" { "duplicate_reference" } else { "" } }).to_string();
            let mut line = world.line("history.jsonl", "\"k3\"").clone();
            line["place"] = json!("till/1");
            if key == "k3" {
                *world.line("history.jsonl", "\"k3\"") = line;
                continue;
            }
            (line["key"], line["call"], line["at"]) = (json!(key), json!(98), json!(900_000));
            world.push("history.jsonl", line);
            world.push("history.jsonl", json!({ "at": 900_001, "process": "again", "call": 98, "type": "ok", "status": 409, "body": body }));
            let mut saga = world.line(SAGAS, "saga-shop-k3").clone();
            (saga["saga_id"], saga["key"], saga["legs_id"]) =
                (json!("saga-shop-k7"), json!(key), json!("legs-shop-k7"));
            (saga["plan"], saga["response"]) = (json!({}), Value::Null);
            world.push(SAGAS, saga);
        }
    });
}

#[test]
fn i8_a_capture_takes_another_amount_or_keeps_the_rest() {
    let points = "dumps/2/points/operation.jsonl";
    finds("i8-capture", Invariant::I8, |world| {
        world.line(points, "op-shop-k5-0")["state"] = json!("held");
    });
    finds("i8-capture-units", Invariant::I8, |world| {
        world.line(SAGAS, "capture-k5")["plan"]["legs"][1]["units"] = json!(2);
    });
    finds("i8-void", Invariant::I8, |world| {
        world.line(points, "op-shop-k6-0")["state"] = json!("held");
    });
}

#[test]
fn i12_a_hold_ends_otherwise_than_its_till_was_told() {
    finds("i12-capture", Invariant::I12, |world| {
        world.line("dumps/2/wallet/redemption.jsonl", "saga-shop-k5")["status"] = json!("expired");
    });
    finds("i12-void", Invariant::I12, |world| {
        world.line("dumps/2/wallet/redemption.jsonl", "saga-shop-k6")["status"] = json!("authorized");
    });
}

/// The first call took effect, and nobody heard; the second one was answered.
#[test]
fn a_capture_that_was_asked_for_twice_may_have_been_done_by_the_first_call() {
    let mut world = sound();
    let first = world.line("history.jsonl", "\"capture\"").clone();
    let number = first["call"].clone();
    let mut second = first;
    (second["call"], second["at"]) = (json!(97), json!(800_000));
    let mut answer = answer(&mut world, "\"capture\"").clone();
    let lines = world.files.get_mut("history.jsonl").unwrap();
    lines.retain(|line| line["call"] != number || line["type"] == "invoke");
    answer =
        json!({ "at": 800_001, "process": "till", "call": 97, "type": "ok", "status": 200, "body": answer });
    lines.extend([second, answer]);
    assert_eq!(checked("capture-twice", &world).violations, []);
}

#[test]
fn i17_a_capture_tells_another_amount_than_was_asked() {
    finds("i17-capture", Invariant::I17, |world| {
        world.line("history.jsonl", "\"capture\"")["amount"] = json!(6);
    });
}

#[test]
fn i3_what_was_acknowledged_is_not_there() {
    finds("i3-later", Invariant::I3, |world| {
        let account = &mut world.line("snapshots.jsonl", "\"version\":2")["accounts"][1];
        account["version"] = json!(1);
    });
    finds("i3-credit", Invariant::I3, |world| change(answer(world, "credit"), "credit-1", "credit-0"));
    finds("i3-cancel", Invariant::I3, |world| {
        world.line(SAGAS, "saga-shop-k4")["key_cancelled"] = json!(false)
    });
}

#[test]
fn i4_a_balance_is_not_its_entries() {
    finds("i4-posted", Invariant::I4, |world| {
        world.line("dumps/2/points/account.jsonl", "bob")["posted"] = json!(99)
    });
    finds("i4-lot", Invariant::I4, |world| {
        world.line("dumps/2/points/lot.jsonl", "lot-1")["original"] = json!(101)
    });
    finds("i4-chain", Invariant::I4, |world| {
        for file in ["dumps/1/points/entry.jsonl", "dumps/2/points/entry.jsonl"] {
            world.line(file, "\"account_no\":4,")["held_after"] = json!(101);
        }
    });
}

#[test]
fn i5_a_saga_takes_too_long_or_never_ends() {
    finds("i5-slow", Invariant::I5, |world| {
        // Nobody sees it ended before.
        let lines = world.files.get_mut("snapshots.jsonl").unwrap();
        let open = |line: &&mut Value| line["database"] == "wallet";
        for (nth, line) in lines.iter_mut().filter(open).enumerate().skip(1) {
            let saga = json!({ "saga_id": "saga-shop-k3", "state": 1, "epoch": 1, "beat_ago_ms": 200 });
            if nth < 3 {
                line["sagas"].as_array_mut().unwrap().push(saga);
            } else {
                (line["from"], line["until"]) = (json!(40_000_000), json!(40_000_000));
            }
        }
    });
    finds("i5-open", Invariant::I5, |world| world.line(SAGAS, "saga-annex-k1")["state"] = json!(0));
}

#[test]
fn i6_more_comes_back_than_was_taken() {
    finds("i6", Invariant::I6, |world| {
        world.line("dumps/2/points/allocation_reversal.jsonl", "k4")["amount"] = json!(2);
    });
    finds("i6-tombstone", Invariant::I6, |world| {
        let mut part = world.line("dumps/2/store_credit/allocation.jsonl", "k1").clone();
        part["operation_id"] = json!("op-shop-k3-1");
        part["lot_id"] = json!("nobody's");
        world.push("dumps/2/store_credit/allocation.jsonl", part);
    });
}

#[test]
fn i7_an_epoch_falls_or_nobody_has_a_saga() {
    finds("i7-epoch", Invariant::I7, |world| {
        world.line("snapshots.jsonl", "saga-shop-k2")["sagas"][0]["epoch"] = json!(2)
    });
    finds("i7-owner", Invariant::I7, |world| {
        let line = world.line("snapshots.jsonl", "saga-shop-k2");
        (line["from"], line["until"]) = (json!(20_000_000), json!(20_000_000));
        line["sagas"][0]["beat_ago_ms"] = Value::Null;
    });
}

#[test]
fn i8_a_completed_saga_lacks_a_leg() {
    finds("i8", Invariant::I8, |world| {
        world.line("dumps/2/points/operation.jsonl", "op-annex-k1")["state"] = json!("reversed");
    });
    finds("i8-letter", Invariant::I8, |world| {
        let file = "dumps/2/points/operation.jsonl";
        world.line(file, "op-shop-k3")["state"] = json!("held");
    });
}

/// What is not as it should be is a violation, unless a database has lost something: then it has to be named.
fn is_named_where_a_database_forgot(name: &str, world: &mut World, saga: &str) {
    let strict = checked(name, world);
    assert!(strict.violations.iter().any(is_i8) && strict.lost.is_empty(), "{:?}", strict.violations);
    world.meta["database_forgot"] = json!(true);
    let report = checked(&format!("{name}-forgotten"), world);
    assert_eq!(report.lost, [saga]);
    assert!(!report.violations.iter().any(is_i8), "{:?}", report.violations);
}

fn is_i8(violation: &Violation) -> bool {
    violation.invariant == Invariant::I8
}

/// Its wallet had heard of the leg before the database lost it: that is not promised, but has to be known.
#[test]
fn i8_a_leg_that_its_database_has_lost_is_named() {
    let mut world = sound();
    let leg = world.line("dumps/2/points/operation.jsonl", "op-annex-k1");
    (leg["legs_id"], leg["leg"]) = (Value::Null, Value::Null);
    is_named_where_a_database_forgot("i8-leg", &mut world, "saga-annex-k1");
    // A leg that is there, and is not what it should be, is no loss.
    world.line("dumps/2/store_credit/operation.jsonl", "op-annex-k1")["state"] = json!("reversed");
    assert!(checked("i8-leg-wrong", &world).violations.iter().any(is_i8));
}

/// Its till had everything taken back, and the wallet's database lost that it was asked to: that has to be known as well.
#[test]
fn i8_a_return_that_its_database_has_lost_is_named() {
    let mut world = sound();
    let sagas = world.files.get_mut("dumps/2/wallet/saga.jsonl").expect("sagas");
    sagas.retain(|saga| saga["saga_id"] != "return-k4");
    is_named_where_a_database_forgot("i8-return", &mut world, "saga-shop-k4");
    // Nobody asked for this one.
    world.line("dumps/2/points/operation.jsonl", "op-annex-k1")["state"] = json!("reversed");
    assert!(checked("i8-return-wrong", &world).violations.iter().any(is_i8));
}

/// The same the other way round: the wallet had heard that the leg went back before its tender's database lost that.
#[test]
fn i8_a_returned_leg_that_its_database_has_lost_is_named() {
    let mut world = sound();
    world.line("dumps/2/points/operation.jsonl", "op-shop-k4")["state"] = json!("applied");
    is_named_where_a_database_forgot("i8-taken", &mut world, "saga-shop-k4");
    world.line("dumps/2/points/operation.jsonl", "op-shop-k4")["state"] = json!("declined");
    assert!(checked("i8-taken-wrong", &world).violations.iter().any(is_i8));
}

#[test]
fn i9_a_dead_letter_too_many_or_closed_by_nobody() {
    finds("i9-open", Invariant::I9, |world| {
        let letter =
            json!({ "dead_letter_id": "other", "saga_id": "saga-shop-k1", "detail": {}, "closed_at": null });
        world.push("dumps/2/wallet/dead_letter.jsonl", letter);
    });
    finds("i9-closed", Invariant::I9, |world| {
        world.line("dumps/2/wallet/operator_action.jsonl", "again")["accepted"] = json!(false);
    });
}

#[test]
fn i10_an_entry_was_changed() {
    finds("i10-changed", Invariant::I10, |world| {
        world.line("dumps/1/points/entry.jsonl", "debit")["kind"] = json!("hold")
    });
    finds("i10-unbalanced", Invariant::I10, |world| {
        for dump in ["dumps/1", "dumps/2"] {
            world.line(&format!("{dump}/points/entry.jsonl"), "contra")["amount"] = json!(-101);
        }
    });
}

#[test]
fn i11_a_balance_is_stale_or_wrong() {
    finds("i11-old", Invariant::I11, |world| {
        let body = answer(world, "\"balance\"");
        change(body, "\"available\":97", "\"available\":100");
        change(body, "\"version\":2", "\"version\":1");
    });
    finds("i11-wrong", Invariant::I11, |world| {
        change(answer(world, "\"balance\""), "\"available\":97", "\"available\":98")
    });
}

#[test]
fn i12_a_till_was_lied_to() {
    finds("i12", Invariant::I12, |world| {
        world.line("dumps/2/wallet/redemption.jsonl", "saga-shop-k2")["status"] = json!("refunded");
    });
}

#[test]
fn i13_a_subscriber_misses_something_or_hears_it_out_of_order_or_early() {
    finds("i13-missed", Invariant::I13, |world| {
        world.files.get_mut("streams.jsonl").unwrap().pop();
    });
    finds("i13-order", Invariant::I13, |world| {
        let lines = world.files.get_mut("streams.jsonl").unwrap();
        let last = lines.last().unwrap().clone();
        lines.push(last);
    });
    finds("i13-wrong", Invariant::I13, |world| {
        let line = world.line("streams.jsonl", "balance_updated");
        change(&mut line["message"], "\"available\":97", "\"available\":96");
    });
    finds("i13-early", Invariant::I13, |world| {
        let mut line = world.files["streams.jsonl"].last().unwrap().clone();
        (line["at"], line["subscriber"]) = (json!(1), json!("early"));
        world.push("streams.jsonl", line);
    });
    finds("i13-late", Invariant::I13, |world| {
        world.files.get_mut("streams.jsonl").unwrap().last_mut().unwrap()["at"] = json!(2_000_000);
    });
}

#[test]
fn i15_one_business_hears_of_another() {
    for (file, text, field) in
        [("events.jsonl", "\\\"shop\\\"", "event"), ("streams.jsonl", "phone", "message")]
    {
        finds("i15", Invariant::I15, |world| {
            let text = &mut world.line(file, text)[field];
            *text = json!(text.as_str().unwrap().replacen('{', "{\"x\":\"canary-of-annex\",", 1));
        });
    }
    finds("i15-cache", Invariant::I15, |world| {
        world.line("captures.jsonl", "annex")["text"] = json!("wallet:{4:shop:ann}:points\ncanary-of-annex");
    });
    finds("i15-metric", Invariant::I15, |world| {
        world.line("captures.jsonl", "http")["text"] = json!("x{order=\"canary-of-shop\"} 1");
    });
    finds("i15-answer", Invariant::I15, |world| {
        let body = answer(world, "\"balance\"");
        change(body, "{", "{\"x\":\"canary-of-annex\",");
    });
}

#[test]
fn i16_nobody_is_told() {
    finds("i16-lost", Invariant::I16, |world| {
        world.files.get_mut("events.jsonl").unwrap().pop();
    });
    finds("i16-ids", Invariant::I16, |world| {
        let mut again = world.line("events.jsonl", "reversed").clone();
        again["event_id"] = json!("event-99");
        world.push("events.jsonl", again);
    });
}

#[test]
fn i17_legs_do_not_add_up() {
    finds("i17", Invariant::I17, |world| {
        world.line("dumps/2/wallet/redemption.jsonl", "saga-shop-k1")["tenders"][0]["amount"] = json!(4);
    });
}

#[test]
fn i18_a_secret_is_in_a_log() {
    let token = format!("eyJ{}.{}", "a".repeat(40), "b".repeat(40));
    for secret in ["hunter2", &token, "-----BEGIN PRIVATE KEY-----"] {
        finds("i18", Invariant::I18, |world| {
            world.logs.get_mut("wallet-1").unwrap().push_str(&format!("{{\"message\":\"{secret}\"}}\n"));
        });
    }
}

#[test]
fn i19_an_answer_changes() {
    finds("i19-again", Invariant::I19, |world| {
        let last = world
            .files
            .get_mut("history.jsonl")
            .unwrap()
            .iter_mut()
            .rev()
            .find(|line| line["status"] == 200 && line["body"].to_string().contains("redeemed"));
        change(&mut last.unwrap()["body"], "{", "{ ");
    });
    finds("i19-stored", Invariant::I19, |world| {
        change(&mut world.line(SAGAS, "saga-shop-k2")["response"], "\\x7b", "\\x7b20");
    });
}

#[test]
fn i20_a_leg_has_no_saga() {
    finds("i20", Invariant::I20, |world| {
        let leg = json!({ "operation_id": "stray", "account_no": 1, "kind": "cancel", "state": "tombstoned", "legs_id": "nobody", "leg": 0 });
        world.push("dumps/2/points/operation.jsonl", leg);
    });
}

#[test]
fn no_order_of_an_account_or_of_a_key_explains_what_was_told() {
    let seen = Invariant::Linearizable;
    finds("order-read", seen, |world| {
        let body = answer(world, "\"read\"");
        change(body, "\"available\":", "\"available\":1");
    });
    finds("order-refusal", seen, |world| {
        change(answer(world, "\"k3\""), "\"available\":97", "\"available\":90");
        world.line(SAGAS, "saga-shop-k3")["response"] = Value::Null;
    });
    finds("order-key", seen, |world| {
        let mut late = world.line("history.jsonl", "\"k4\"").clone();
        (late["call"], late["at"]) = (json!(99), json!(900_000));
        let body = answer(world, "\"k4\"").clone();
        world.push("history.jsonl", late);
        world.push("history.jsonl", json!({ "at": 900_001, "process": "late", "call": 99, "type": "ok", "status": 200, "body": body }));
    });
}
