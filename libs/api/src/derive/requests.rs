//! What each request means: which of its fields count, and which values are their defaults. Each function names every field of
//! its request, so that one that is added does not compile until it is decided whether it counts. Names and defaults are final.

use std::borrow::Cow;

use super::{Fields, RequestForm};
use crate::{
    legs::{Account, Forward, LegKey, Mode, Take},
    ops::{BulkFilter, BulkReplayRequest, RATE_DEFAULT},
    tender::{CreditRequest, Funding},
    wallet::{Capture, Cart, HOLD_DEFAULT_S, OnDeadline, RedeemRequest, Strategy, TenderRequest},
};

/// `POST /wallet/redeem`. `deadline_ms` does not count: how long a caller waits changes nothing that is done.
#[must_use]
pub fn redeem(request: &RedeemRequest) -> RequestForm {
    let RedeemRequest {
        customer_id,
        order_id,
        currency,
        amount,
        tenders,
        strategy,
        allow_partial,
        capture,
        hold_ttl_s,
        cart,
        location_id,
        terminal_id,
        operator_id,
        sequence,
        deadline_ms: _,
        on_deadline,
        metadata,
    } = request;
    let capture = match capture {
        Capture::Automatic => None,
        Capture::Manual => Some("manual"),
    };
    let on_deadline = match on_deadline {
        OnDeadline::Continue => None,
        OnDeadline::Cancel => Some("cancel"),
    };
    let strategy = match strategy {
        None | Some(Strategy::ExpiringFirst) => None,
        Some(Strategy::MerchantOrder) => Some("merchant_order"),
    };
    RequestForm::of("redeem", |fields| {
        fields.flag("allow_partial", *allow_partial);
        fields.integer("amount", *amount);
        fields.some_text("capture", capture);
        if let Some(Cart { subtotal, tax }) = cart {
            fields.object("cart", |fields| {
                fields.integer("subtotal", *subtotal);
                fields.integer_but("tax", 0, *tax);
            });
        }
        fields.text("currency", currency.code());
        fields.text("customer_id", customer_id.as_str());
        fields.some_integer("hold_ttl_s", hold_ttl_s.filter(|ttl| *ttl != HOLD_DEFAULT_S));
        fields.some_text("location_id", location_id.as_deref());
        fields.json("metadata", metadata);
        fields.some_text("on_deadline", on_deadline);
        fields.some_text("operator_id", operator_id.as_deref());
        fields.text("order_id", order_id);
        fields.some_integer("sequence", *sequence);
        fields.some_text("strategy", strategy);
        if let Some(tenders) = tenders {
            fields.objects("tenders", tenders, tender);
        }
        fields.some_text("terminal_id", terminal_id.as_deref());
    })
}

fn tender(fields: &mut Fields<'_>, request: &TenderRequest) {
    let TenderRequest { kind, points, max_points, amount, max_amount, reward_id, code } = request;
    fields.some_integer("amount", *amount);
    fields.some_text("code", code.as_deref().map(as_read).as_deref());
    fields.some_integer("max_amount", *max_amount);
    fields.some_integer("max_points", *max_points);
    fields.some_integer("points", *points);
    fields.some_text("reward_id", reward_id.map(|id| id.to_string()).as_deref());
    fields.text("type", kind.as_str());
}

/// Codes are read without case, blanks and dashes.
fn as_read(code: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !matches!(c, ' ' | '-') && !c.is_ascii_lowercase();
    if code.chars().all(is_plain) {
        return code.into();
    }
    code.chars().filter(|c| !matches!(c, ' ' | '-')).map(|c| c.to_ascii_uppercase()).collect()
}

/// `POST /wallet/redemptions/{id}/capture`. The redemption is in the key's scope.
#[must_use]
pub fn capture(amount: Option<i64>) -> RequestForm {
    RequestForm::of("capture", |fields| fields.some_integer("amount", amount))
}

/// `POST /wallet/redemptions/{id}/void`. The redemption is in the key's scope.
#[must_use]
pub fn void() -> RequestForm {
    RequestForm::of("void", |_| {})
}

/// `POST /…/credits`. Times count in microseconds, as they are kept.
#[must_use]
pub fn credit(request: &CreditRequest) -> RequestForm {
    let CreditRequest {
        customer_id,
        points,
        amount,
        currency,
        kind,
        funding,
        reference,
        expires_at,
        location_id,
        reason,
        metadata,
    } = request;
    let funding = match funding {
        Funding::Paid => "paid",
        Funding::Promo => "promo",
        Funding::Refund => "refund",
    };
    RequestForm::of("credit", |fields| {
        fields.some_integer("amount", *amount);
        fields.some_text("currency", currency.map(|currency| currency.code()));
        fields.some_text("customer_id", customer_id.as_ref().map(|customer| customer.as_str()));
        fields.some_integer("expires_at", expires_at.map(|end| end.timestamp_micros()));
        fields.text("funding", funding);
        fields.text("kind", kind);
        fields.some_text("location_id", location_id.as_deref());
        fields.json("metadata", metadata.iter().flatten());
        fields.some_integer("points", *points);
        fields.some_text("reason", reason.as_deref());
        fields.text("reference", reference);
    })
}

/// A forward leg: its account and its plan. `not_after` and `hold_until` do not count, for a retry after the wallet lost its
/// tail has later ones.
#[must_use]
pub fn leg(account: &Account, plan: &Forward) -> RequestForm {
    let Account { business_id, customer_id, asset } = account;
    let Forward { mode, amount, take, step, reward_id, of, hold_until: _, not_after: _, order_id } = plan;
    let mode = match mode {
        Mode::Debit => "debit",
        Mode::Hold => "hold",
        Mode::Reverse => "reverse",
    };
    let take = match take {
        Take::Exact => "exact",
        Take::AtMost => "at_most",
    };
    RequestForm::of("leg", |fields| {
        fields.integer("amount", *amount);
        fields.text("asset", asset.as_str());
        fields.text("business_id", business_id.as_str());
        fields.text("customer_id", customer_id);
        fields.text("mode", mode);
        if let Some(LegKey { legs_id, leg }) = of {
            fields.object("of", |fields| {
                fields.integer("leg", (*leg).into());
                fields.text("legs_id", &legs_id.to_string());
            });
        }
        fields.some_text("order_id", order_id.as_deref());
        fields.some_text("reward_id", reward_id.map(|id| id.to_string()).as_deref());
        fields.integer_but("step", 1, *step);
        fields.text("take", take);
    })
}

/// `POST /ops/dead-letters/replay`. `dry_run` does not count: what was only tried was not done.
#[must_use]
pub fn bulk_replay(request: &BulkReplayRequest) -> RequestForm {
    let BulkReplayRequest { operation_id, filter, rate_per_second, reason, dry_run: _ } = request;
    let BulkFilter { code, tender, customer_id, older_than_s } = filter;
    RequestForm::of("bulk_replay", |fields| {
        fields.some_text("code", code.as_deref());
        fields.some_text("customer_id", customer_id.as_ref().map(|customer| customer.as_str()));
        fields.some_integer("older_than_s", *older_than_s);
        fields.text("operation_id", operation_id);
        fields.integer_but("rate_per_second", RATE_DEFAULT.into(), (*rate_per_second).into());
        fields.text("reason", reason);
        fields.some_text("tender", tender.map(|tender| tender.as_str()));
    })
}
