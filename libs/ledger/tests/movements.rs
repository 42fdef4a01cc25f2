//! The borders of balances and movements, and the names under which they are kept.

use ledger::{Balance, Funding, LedgerError, Movement, UnknownFunding};

#[test]
fn a_balance_is_between_what_is_held_and_all_there_is() {
    for (posted, held, version) in [(0, 0, 0), (5, 5, 1), (i64::MAX, i64::MAX, i64::MAX)] {
        let balance = Balance::try_new(posted, held, version);
        assert_eq!(balance.map(|b| (b.posted(), b.held(), b.version())), Ok((posted, held, version)));
    }
    for (posted, held, version) in [(-1, -1, 0), (5, 6, 0), (5, -1, 0), (5, 5, -1)] {
        assert_eq!(Balance::try_new(posted, held, version), Err(LedgerError::BelowZero));
    }
}

#[test]
fn a_movement_may_be_of_nothing_but_no_part_of_it_below_zero() {
    let balance = Balance::try_new(10, 10, 0).expect("a balance");
    let credit = |amount| Movement::Credit { amount, funding: Funding::Paid };
    let capture = |taken, released| Movement::Capture { taken, released };
    for nothing in [credit(0), Movement::Debit(0), Movement::Hold(0), capture(0, 5), capture(5, 0)] {
        assert_eq!(balance.after(nothing).map(Balance::version), Ok(1), "{nothing:?}");
    }
    for below in [
        credit(-1),
        Movement::Reverse(-1),
        Movement::Expire(-1),
        capture(-1, 5),
        capture(5, -1),
        capture(-1, -1),
    ] {
        assert_eq!(balance.after(below), Err(LedgerError::NegativeAmount), "{below:?}");
    }
}

#[test]
fn movements_are_kept_under_their_names_on_both_sides() {
    let capture = Movement::Capture { taken: 1, released: 0 };
    for (movement, kind) in [
        (Movement::Debit(1), "debit"),
        (Movement::Hold(1), "hold"),
        (Movement::Release(1), "release"),
        (capture, "capture"),
        (Movement::Reverse(1), "reverse"),
        (Movement::Cancel(1), "cancel"),
    ] {
        assert_eq!((movement.kind(), movement.contra()), (kind, "redeemed"));
    }
    assert_eq!((Movement::Expire(1).kind(), Movement::Expire(1).contra()), ("expire", "expired"));
    for (funding, name, contra) in [
        (Funding::Paid, "paid", "issued:paid"),
        (Funding::Promo, "promo", "issued:promo"),
        (Funding::Refund, "refund", "issued:refund"),
    ] {
        let credit = Movement::Credit { amount: 1, funding };
        assert_eq!((credit.kind(), credit.contra()), ("credit", contra));
        assert_eq!((funding.as_str(), funding.to_string().as_str()), (name, name));
        assert_eq!(name.parse(), Ok(funding));
    }
    assert_eq!("PAID".parse::<Funding>(), Err(UnknownFunding));
}
