//! I12, I17 and I19: what a till was told is how it ended, adds up, and never changes.

use crate::{
    calls::{Key, Made, Sale, Told},
    case::Case,
    format::Call,
    invariant::{Invariant, Violation},
    rows::{Redemption, Saga, state},
};

pub(super) fn check(case: &Case<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (key, sale) in &case.sales {
        let saga = case.redeems.get(key).copied();
        let redemption = saga.and_then(|saga| case.redemptions.get(saga.saga_id.as_str()).copied());
        found.extend(is_a_lie(*key, sale, redemption));
        found.extend(sale.redeems.iter().filter_map(|made| adds_up(*key, made)));
        found.extend(changed(*key, sale, saga));
        found.extend(captures(case, *key, sale, redemption));
        found.extend(unknown(*key, sale));
    }
    for saga in &case.evidence.end.wallet.sagas {
        if let Some(redemption) = case.redemptions.get(saga.saga_id.as_str()) {
            found.extend(of_redemption(saga, redemption));
        }
    }
    found
}

fn is_a_lie(key: Key<'_>, sale: &Sale<'_>, redemption: Option<&Redemption>) -> Option<Violation> {
    let end = redemption.map_or("nothing", |redemption| redemption.status.as_str());
    let was_cancelled = sale.cancelled().is_some() || sale.first(Told::Cancelled).is_some();
    let allowed: &[&str] = if was_cancelled && sale.is_hold {
        &["nothing", "declined", "voided", "expired", "reversed"]
    } else if was_cancelled {
        &["nothing", "declined", "reversed"]
    } else if sale.is_hold && sale.first(Told::Completed).is_some() {
        of_hold(sale)
    } else if sale.first(Told::Declined).is_some() {
        &["declined"]
    } else if sale.first(Told::Completed).is_none() {
        return None;
    } else if sale.cancels.is_empty() {
        &["completed"]
    } else {
        &["completed", "reversed"]
    };
    (!allowed.contains(&end)).then(|| {
        let told: Vec<Told> = sale.redeems.iter().filter_map(Made::told).collect();
        let cancels = sale.cancels.len();
        Violation::new(
            Invariant::I12,
            format!("{key:?} was told {told:?}, with {cancels} cancels, and ended {end}"),
        )
    })
}

/// How what was set aside may end. A hold that nobody takes up ends by itself.
fn of_hold(sale: &Sale<'_>) -> &'static [&'static str] {
    let is_open = |calls: &[Made<'_>]| calls.iter().any(|made| !made.is_refused());
    match (sale.captured(), sale.voided()) {
        (Some(_), _) if sale.cancels.is_empty() => &["completed"],
        (Some(_), _) => &["completed", "reversed"],
        (None, Some(_)) => &["voided"],
        (None, None) if !sale.cancels.is_empty() => {
            &["authorized", "completed", "voided", "expired", "reversed"]
        }
        (None, None) => match (is_open(&sale.captures), is_open(&sale.voids)) {
            (true, true) => &["authorized", "completed", "voided", "expired"],
            (true, false) => &["authorized", "completed", "expired"],
            (false, true) => &["authorized", "voided", "expired"],
            // Whoever was refused was told that the hold has ended.
            (false, false) if !sale.captures.is_empty() || !sale.voids.is_empty() => &["expired"],
            (false, false) => &["authorized", "expired"],
        },
    }
}

fn adds_up(key: Key<'_>, made: &Made<'_>) -> Option<Violation> {
    if !made.is_done() {
        return None;
    }
    let said = &made.said;
    let legs: i64 = said["tenders"].as_array()?.iter().filter_map(|tender| tender["amount"].as_i64()).sum();
    let (amount, redeemed, due) =
        (said["amount"].as_i64()?, said["redeemed"].as_i64()?, said["amount_due"].as_i64()?);
    (legs != redeemed || redeemed + due != amount)
        .then(|| Violation::new(Invariant::I17, format!("{key:?} was told {said}, with legs of {legs}")))
}

/// All answers under a key are the first, and that is the one which is stored.
fn changed(key: Key<'_>, sale: &Sale<'_>, saga: Option<&Saga>) -> Option<Violation> {
    let is_final = |made: &&Made<'_>| matches!(made.told(), Some(Told::Completed | Told::Declined));
    let mut answers = sale.redeems.iter().filter(is_final).filter_map(|made| made.answer);
    let first = &answers.next()?.body;
    let stored = saga.and_then(Saga::answer).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let other = answers.map(|answer| &answer.body).chain(&stored).find(|body| *body != first)?;
    Some(Violation::new(Invariant::I19, format!("{key:?} was told {first}, and then {other}")))
}

/// What was told that it is set aside is there to be captured or freed.
fn unknown(key: Key<'_>, sale: &Sale<'_>) -> Option<Violation> {
    let mut further = sale.captures.iter().chain(&sale.voids);
    let made = further.find(|made| made.answer.is_some_and(|answer| answer.status == 404))?;
    Some(Violation::new(Invariant::I3, format!("{key:?} was authorized, and {:?} finds nothing", made.call)))
}

/// What a capture was told adds up, stays the same, and is what was taken.
fn captures(
    case: &Case<'_>,
    key: Key<'_>,
    sale: &Sale<'_>,
    redemption: Option<&Redemption>,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut first: Option<&Made<'_>> = None;
    for made in sale.captures.iter().filter(|made| made.is_done()) {
        let Call::Capture { amount, .. } = made.call else { continue };
        found.extend(adds_up(key, made));
        let first = *first.get_or_insert(made);
        if let (Some(before), Some(now)) = (first.answer, made.answer)
            && before.body != now.body
        {
            let text = format!("the capture of {key:?} was told {}, and then {}", before.body, now.body);
            found.push(Violation::new(Invariant::I19, text));
        }
        let taken = redemption.map(|redemption| redemption.redeemed);
        if made.said["redeemed"].as_i64() != Some(*amount) || taken != Some(*amount) {
            let text =
                format!("a capture of {amount} from {key:?} was told {}, and took {taken:?}", made.said);
            found.push(Violation::new(Invariant::I17, text));
        }
        if redemption.is_none_or(|redemption| !case.captured.contains_key(redemption.redemption_id.as_str()))
        {
            found.push(Violation::new(Invariant::I3, format!("the capture of {key:?} has no saga")));
        }
    }
    found
}

fn of_redemption(saga: &Saga, redemption: &Redemption) -> Vec<Violation> {
    let Redemption { redemption_id, redeemed, status, reversal, tenders } = redemption;
    let mut found = Vec::new();
    let fits = match saga.state {
        state::COMPLETED => !matches!(status.as_str(), "pending" | "declined"),
        state::COMPENSATED => status == "declined" && reversal.as_deref() == Some("done"),
        // Parked on its way back, it holds no sequence of its till.
        state::DEAD_LETTER => {
            status == "under_review" && reversal.as_deref() == saga.backward.then_some("pending")
        }
        state::RESOLVED => status == "resolved",
        _ => true,
    };
    if !fits {
        let text = format!(
            "redemption {redemption_id} is {status} ({reversal:?}), and its saga in state {}",
            saga.state
        );
        found.push(Violation::new(Invariant::I12, text));
    }
    let legs: i64 = tenders.iter().map(|given| given.amount).sum();
    if legs != *redeemed {
        found.push(Violation::new(
            Invariant::I17,
            format!("redemption {redemption_id} covers {redeemed}, and its legs {legs}"),
        ));
    }
    found
}
