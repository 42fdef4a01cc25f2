//! What must be true between the wallet's database and the tenders'.
//!
//! No snapshot spans four databases, so the order of reading makes the answer right on a running system:
//! sagas that ended five seconds ago or earlier are read first, because what they did to their legs is
//! final and older than whatever is read next; then all legs; then, for legs of which no saga was seen,
//! the wallet is asked again, because a saga is always written before its legs.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::{Database, Finding};

/// State of a saga of which every leg was applied.
const COMPLETED: i16 = 2;
/// State of a leg that was given back as a whole.
const REVERSED: &str = "reversed";

/// Sagas that may be turned back (kind 0) and that ended five seconds ago or earlier, completed or compensated. A stub
/// for an orphan stands for one leg only, so what it came to says nothing of the others.
const ENDED_SAGAS: &str = "
    SELECT saga_id, legs_id, state,
           CASE WHEN jsonb_typeof(plan -> 'legs') = 'array' THEN jsonb_array_length(plan -> 'legs') END AS legs
    FROM saga.saga
    WHERE kind = 0 AND operation <> 'orphan' AND state IN (2, 3) AND ended_at < clock_timestamp() - interval '5 s'";

/// Redemptions that were given back, by themselves or by a void, five seconds ago or earlier.
const RETURNS: &str = "
    SELECT redeem.saga_id, redeem.legs_id
    FROM saga.saga AS back JOIN saga.saga AS redeem ON redeem.saga_id = back.parent_id
    WHERE back.kind = 1 AND back.plan ->> 'type' = 'return' AND back.state = 2
      AND back.ended_at < clock_timestamp() - interval '5 s'";

/// Every leg with what it still has in force.
const LEGS: &str = "
    SELECT o.legs_id, o.leg, o.state, coalesce(a.in_force, 0)::bigint AS in_force
    FROM tender.operation o
    LEFT JOIN (SELECT operation_id, sum(amount - reversed) AS in_force FROM tender.allocation GROUP BY 1) a
        USING (operation_id)
    WHERE o.legs_id IS NOT NULL AND o.kind IN ('debit', 'hold', 'cancel')";

/// Of some redemptions, those that a later saga takes further: a return gives all legs back, a capture those that it does not
/// need. It is always written before their legs change.
const TAKEN_FURTHER: &str = "SELECT DISTINCT parent_id FROM saga.saga WHERE kind = 1 AND parent_id = ANY($1)";

const KNOWN_LEGS: &str = "SELECT DISTINCT legs_id FROM saga.saga WHERE legs_id = ANY($1)";

#[derive(Debug, PartialEq, Eq)]
struct Saga {
    saga_id: Uuid,
    legs_id: Uuid,
    is_completed: bool,
    /// Legs that its plan has; `None` where the plan says nothing of legs.
    planned: Option<i32>,
}

/// A redemption that was given back as a whole.
#[derive(Debug, PartialEq, Eq)]
struct Returned {
    saga_id: Uuid,
    legs_id: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Leg {
    tender: &'static str,
    leg: i32,
    state: String,
    in_force: i64,
}

type Legs = HashMap<Uuid, Vec<Leg>>;

/// Compares the wallet's sagas with the tenders' legs; needs a connection to each database.
///
/// # Errors
/// When a database cannot be read.
pub async fn cross_check(connections: &mut [(Database, PgConnection)]) -> sqlx::Result<Vec<Finding>> {
    let Some(wallet) = connections.iter().position(|(database, _)| *database == Database::Wallet) else {
        return Ok(Vec::new());
    };
    let sagas = ended_sagas(&mut connections[wallet].1).await?;
    let returned = returned(&mut connections[wallet].1).await?;
    let mut legs = Legs::new();
    for (database, connection) in connections.iter_mut().filter(|(database, _)| *database != Database::Wallet)
    {
        read_legs(connection, database.name(), &mut legs).await?;
    }
    let taken_further = taken_further(&mut connections[wallet].1, &sagas, &legs).await?;
    let orphans = orphans(&mut connections[wallet].1, &sagas, &legs).await?;
    Ok(vec![
        finding(
            "completed_means_every_leg_applied",
            "I8: A completed saga has all its legs, each applied or held, or reversed by a saga that takes it further.",
            unfinished(&sagas, &legs, &taken_further),
        ),
        finding(
            "compensated_means_no_leg_applied",
            "I8: A compensated saga has nothing in force at any tender.",
            left_over(&sagas, &legs),
        ),
        finding(
            "given_back_means_nothing_in_force",
            "I8: A redemption that was reversed, voided or expired has nothing in force at any tender.",
            still_taken(&returned, &legs),
        ),
        finding("no_leg_without_a_saga", "I20: Every leg with value in force belongs to a saga.", orphans),
    ])
}

async fn ended_sagas(wallet: &mut PgConnection) -> sqlx::Result<Vec<Saga>> {
    let mut rows = sqlx::query(ENDED_SAGAS).fetch(wallet);
    let mut sagas = Vec::new();
    while let Some(row) = rows.try_next().await? {
        sagas.push(Saga {
            saga_id: row.try_get("saga_id")?,
            legs_id: row.try_get("legs_id")?,
            is_completed: row.try_get::<i16, _>("state")? == COMPLETED,
            planned: row.try_get("legs")?,
        });
    }
    Ok(sagas)
}

async fn returned(wallet: &mut PgConnection) -> sqlx::Result<Vec<Returned>> {
    let rows = sqlx::query(RETURNS).fetch_all(wallet).await?;
    rows.iter()
        .map(|row| Ok(Returned { saga_id: row.try_get("saga_id")?, legs_id: row.try_get("legs_id")? }))
        .collect()
}

async fn read_legs(tender: &mut PgConnection, name: &'static str, legs: &mut Legs) -> sqlx::Result<()> {
    let mut rows = sqlx::query(LEGS).fetch(tender);
    while let Some(row) = rows.try_next().await? {
        legs.entry(row.try_get("legs_id")?).or_default().push(Leg {
            tender: name,
            leg: row.try_get("leg")?,
            state: row.try_get("state")?,
            in_force: row.try_get("in_force")?,
        });
    }
    Ok(())
}

/// Completed sagas with a reversed leg of which the wallet knows why.
async fn taken_further(
    wallet: &mut PgConnection,
    sagas: &[Saga],
    legs: &Legs,
) -> sqlx::Result<HashSet<Uuid>> {
    let is_back =
        |saga: &&Saga| saga.is_completed && of(legs, saga.legs_id).iter().any(|leg| leg.state == REVERSED);
    let reversed: Vec<Uuid> = sagas.iter().filter(is_back).map(|saga| saga.saga_id).collect();
    Ok(sqlx::query_scalar(TAKEN_FURTHER).bind(&reversed).fetch_all(wallet).await?.into_iter().collect())
}

/// Legs in force of which the wallet knows no saga.
async fn orphans(wallet: &mut PgConnection, sagas: &[Saga], legs: &Legs) -> sqlx::Result<Vec<Value>> {
    let ended: HashSet<Uuid> = sagas.iter().map(|saga| saga.legs_id).collect();
    let unseen: Vec<Uuid> =
        legs.iter().filter(|(id, legs)| !ended.contains(id) && has_value(legs)).map(|(id, _)| *id).collect();
    let known: HashSet<Uuid> =
        sqlx::query_scalar(KNOWN_LEGS).bind(&unseen).fetch_all(wallet).await?.into_iter().collect();
    Ok(unseen
        .iter()
        .filter(|id| !known.contains(id))
        .map(|id| json!({ "legs_id": id, "legs": shown(&legs[id]) }))
        .collect())
}

fn unfinished(sagas: &[Saga], legs: &Legs, taken_further: &HashSet<Uuid>) -> Vec<Value> {
    let is_whole = |saga: &Saga, legs: &[Leg]| {
        let is_right = |leg: &&Leg| match leg.state.as_str() {
            "applied" | "held" => true,
            REVERSED => taken_further.contains(&saga.saga_id),
            _ => false,
        };
        let right = legs.iter().filter(is_right).count();
        right == legs.len() && saga.planned.is_none_or(|planned| usize::try_from(planned) == Ok(right))
    };
    broken(sagas.iter().filter(|saga| saga.is_completed), legs, |saga, legs| !is_whole(saga, legs))
}

fn left_over(sagas: &[Saga], legs: &Legs) -> Vec<Value> {
    broken(sagas.iter().filter(|saga| !saga.is_completed), legs, |_, legs| has_value(legs))
}

fn still_taken(returned: &[Returned], legs: &Legs) -> Vec<Value> {
    returned
        .iter()
        .map(|back| (back, of(legs, back.legs_id)))
        .filter(|(_, legs)| has_value(legs))
        .map(|(back, legs)| json!({ "saga_id": back.saga_id, "legs": shown(legs) }))
        .collect()
}

fn of(legs: &Legs, legs_id: Uuid) -> &[Leg] {
    legs.get(&legs_id).map_or(&[], Vec::as_slice)
}

/// A leg that took nothing stays applied with nothing: no cancel was needed to undo it.
fn has_value(legs: &[Leg]) -> bool {
    legs.iter().any(|leg| leg.in_force > 0)
}

fn broken<'a>(
    sagas: impl Iterator<Item = &'a Saga>,
    legs: &Legs,
    is_broken: impl Fn(&Saga, &[Leg]) -> bool,
) -> Vec<Value> {
    sagas
        .map(|saga| (saga, of(legs, saga.legs_id)))
        .filter(|(saga, legs)| is_broken(saga, legs))
        .map(|(saga, legs)| json!({ "saga_id": saga.saga_id, "planned": saga.planned, "legs": shown(legs) }))
        .collect()
}

fn shown(legs: &[Leg]) -> Vec<Value> {
    let show = |leg: &Leg| json!({ "tender": leg.tender, "leg": leg.leg, "state": leg.state, "in_force": leg.in_force });
    legs.iter().map(show).collect()
}

fn finding(name: &str, statement: &str, rows: Vec<Value>) -> Finding {
    Finding::new("wallet and tenders", name, statement, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saga(is_completed: bool, planned: i32) -> Saga {
        Saga { saga_id: Uuid::nil(), legs_id: Uuid::nil(), is_completed, planned: Some(planned) }
    }

    fn legs(states: &[(&str, i64)]) -> Legs {
        let leg = |(number, (state, in_force)): (usize, &(&str, i64))| Leg {
            tender: "points",
            leg: i32::try_from(number).unwrap(),
            state: (*state).to_owned(),
            in_force: *in_force,
        };
        HashMap::from([(Uuid::nil(), states.iter().enumerate().map(leg).collect())])
    }

    #[test]
    fn a_completed_saga_has_all_its_legs() {
        let sagas = [saga(true, 2)];
        let nobody = HashSet::new();
        assert!(unfinished(&sagas, &legs(&[("applied", 5), ("held", 3)]), &nobody).is_empty());
        for states in [
            &[("applied", 5)][..],
            &[("applied", 5), ("declined", 0)],
            &[("applied", 5), ("tombstoned", 0)],
            &[("applied", 0), ("reversed", 0)],
            &[],
        ] {
            assert_eq!(unfinished(&sagas, &legs(states), &nobody).len(), 1, "{states:?}");
        }
        let taken_further = HashSet::from([Uuid::nil()]);
        assert!(unfinished(&sagas, &legs(&[("applied", 0), ("reversed", 0)]), &taken_further).is_empty());
    }

    #[test]
    fn a_compensated_saga_has_nothing_in_force() {
        let sagas = [saga(false, 2)];
        assert!(left_over(&sagas, &legs(&[("reversed", 0), ("tombstoned", 0)])).is_empty());
        assert!(left_over(&sagas, &legs(&[("declined", 0)])).is_empty());
        assert!(left_over(&sagas, &Legs::new()).is_empty());
        assert_eq!(left_over(&sagas, &legs(&[("reversed", 0), ("applied", 4)])).len(), 1);
        assert_eq!(left_over(&sagas, &legs(&[("held", 1)])).len(), 1);
        assert!(left_over(&sagas, &legs(&[("applied", 0)])).is_empty(), "it took nothing");
    }

    #[test]
    fn what_was_given_back_has_nothing_in_force() {
        let returned = [Returned { saga_id: Uuid::nil(), legs_id: Uuid::nil() }];
        assert!(still_taken(&returned, &legs(&[("reversed", 0), ("applied", 0)])).is_empty());
        assert_eq!(still_taken(&returned, &legs(&[("reversed", 0), ("applied", 4)])).len(), 1);
        assert!(still_taken(&[], &legs(&[("applied", 4)])).is_empty(), "nobody gave it back");
    }
}
