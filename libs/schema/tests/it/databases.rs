//! Making databases, what their roles may not do, and whether the invariants see what is broken.

use schema::{Database, Target, WITHIN, check, invariants, provision};
use sqlx::{Connection, PgConnection};
use testkit::TestDatabase;

use crate::{run, server};

#[tokio::test]
async fn provisioning_may_be_repeated_and_run_at_once() {
    let name = format!("t_provision_{}", uuid::Uuid::new_v4().simple());
    let role = format!("{name}_role");
    let target = |password| Target { database: Database::DigitalRewards, name: &name, role: &role, password };
    let admin = server();
    let (first, second) = (target("a"), target("it's new"));
    let (one, two) = tokio::join!(provision(&admin, &first, WITHIN), provision(&admin, &first, WITHIN));
    one.unwrap();
    two.unwrap();
    provision(&admin, &second, WITHIN).await.unwrap();

    let login = admin.clone().database(&name).username(&role).password("it's new");
    let mut service = PgConnection::connect_with(&login).await.unwrap();
    run(&mut service, "SELECT * FROM tender.reward_code").await.unwrap();
    service.close().await.unwrap();

    let mut connection = PgConnection::connect_with(&admin).await.unwrap();
    run(&mut connection, &format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    run(&mut connection, &format!("DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn a_password_never_reaches_the_server() {
    let role = format!("t_role_{}", uuid::Uuid::new_v4().simple());
    // A server that had the password would keep it in this form.
    let admin = server().options([("password_encryption", "md5")]);
    let target = Target { database: Database::Points, name: &role, role: &role, password: "grüße, world" };
    provision(&admin, &target, WITHIN).await.unwrap();
    let mut connection = PgConnection::connect_with(&admin).await.unwrap();
    let kept: String = sqlx::query_scalar("SELECT rolpassword FROM pg_authid WHERE rolname = $1")
        .bind(&role)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(kept.starts_with("SCRAM-SHA-256$4096:"), "{kept}");
    let login = server().database(&role).username(&role).password("grüße, world");
    PgConnection::connect_with(&login).await.unwrap().close().await.unwrap();
    run(&mut connection, &format!("DROP DATABASE {role} WITH (FORCE)")).await.unwrap();
    run(&mut connection, &format!("DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn a_services_role_cannot_touch_another_database_nor_history() {
    let points = TestDatabase::create(Database::Points).await;
    let wallet = TestDatabase::create(Database::Wallet).await;
    let url = points.url().expose().to_owned();
    let mut service = PgConnection::connect(&url).await.unwrap();
    for statement in [
        "DELETE FROM tender.entry",
        "UPDATE tender.entry SET amount = 1",
        "TRUNCATE tender.entry",
        "ALTER TABLE tender.entry DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "DROP TABLE tender.outbox",
        "CREATE TABLE tender.mine ()",
    ] {
        let error = run(&mut service, statement).await.expect_err(statement);
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{statement}");
    }
    let other = url.replace(points.admin().get_database().unwrap(), wallet.admin().get_database().unwrap());
    let error = PgConnection::connect(&other).await.expect_err("another service's database");
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501");
}

#[tokio::test]
async fn every_invariant_runs_on_every_database() {
    for database in Database::ALL {
        let test = TestDatabase::create(database).await;
        let mut connection = PgConnection::connect_with(&test.admin()).await.unwrap();
        let findings = check(&mut connection, database).await.unwrap();
        assert_eq!(findings.len(), invariants(database).len());
        assert!(findings.iter().all(|finding| finding.violations == 0), "{findings:#?}");
    }
}

#[tokio::test]
async fn all_violations_are_counted_and_the_first_are_shown() {
    let test = TestDatabase::create(Database::Points).await.without_checks();
    let mut connection = PgConnection::connect_with(&test.admin()).await.unwrap();
    let accounts = "INSERT INTO tender.account (business_id, owner, asset, posted)
                    SELECT 'b', 'c' || i, 'points', i FROM generate_series(1, 50) i";
    run(&mut connection, accounts).await.unwrap();
    let findings = check(&mut connection, Database::Points).await.unwrap();
    let broken: Vec<_> = findings.iter().filter(|finding| finding.name == "posted_equals_lots").collect();
    assert_eq!((broken[0].violations, broken[0].rows.len()), (50, 20));
    assert!(broken[0].rows[0]["posted"].is_number(), "{}", broken[0].rows[0]);
}

/// One account with one credit, as a tender would have written it.
const ONE_CREDIT: &str = "
    INSERT INTO tender.account (business_id, owner, asset, posted, version) VALUES ('b', 'c', 'points', 10, 1);
    INSERT INTO tender.lot (account_no, lot_id, original, remaining, funding, kind, operation_id, created_at)
    VALUES (1, gen_random_uuid(), 10, 10, 'paid', 'earn', gen_random_uuid(), now());
    INSERT INTO tender.operation
        (operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at)
    VALUES ('00000000-0000-0000-0000-000000000001', 'b', 1, 'credit', 'applied', 10, '{}', now(), now());
    INSERT INTO tender.entry (operation_id, business_id, asset, kind, amount,
        account_no, version, balance_after, held_after, contra, created_at)
    VALUES ('00000000-0000-0000-0000-000000000001', 'b', 'points', 'credit', 10, 1, 1, 10, 0, NULL, now()),
           ('00000000-0000-0000-0000-000000000001', 'b', 'points', 'credit', -10,
               NULL, NULL, NULL, NULL, 'issued:paid', now());";

#[tokio::test]
async fn what_a_superuser_edits_is_seen() {
    for (edit, broken) in [
        ("SELECT 1", None),
        ("UPDATE tender.lot SET remaining = 9", Some("posted_equals_lots")),
        ("UPDATE tender.account SET posted = 11", Some("posted_equals_entries")),
        ("UPDATE tender.account SET version = 2", Some("versions_have_no_gaps")),
        (
            "ALTER TABLE tender.entry DISABLE TRIGGER ALL; DELETE FROM tender.entry WHERE contra IS NOT NULL",
            Some("operations_balance"),
        ),
    ] {
        let test = TestDatabase::create(Database::Points).await.without_checks();
        let mut connection = PgConnection::connect_with(&test.admin()).await.unwrap();
        run(&mut connection, ONE_CREDIT).await.unwrap();
        run(&mut connection, edit).await.unwrap();
        let findings = check(&mut connection, Database::Points).await.unwrap();
        let names: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.violations > 0)
            .map(|finding| finding.name.as_str())
            .collect();
        assert!(broken.map_or(names.is_empty(), |rule| names.contains(&rule)), "{edit}: {names:?}");
    }
}

/// A dead letter of a saga, an action on it and a redemption of a till, each as the wallet would have written it.
const ONE_LETTER: &str = "
    INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state,
                           epoch, deadline_at, budget_from, due_at)
    VALUES ('00000000-0000-0000-0000-000000000001', 'b', 'redeem', '', 'k', '', 0, 1, gen_random_uuid(), '{}', 4, 1,
            now(), now(), now());
    INSERT INTO saga.dead_letter (dead_letter_id, saga_id, business_id, code, detail)
    VALUES ('00000000-0000-0000-0000-000000000002', '00000000-0000-0000-0000-000000000001', 'b', 'silent', '{}');
    INSERT INTO saga.operator_action (business_id, operation_id, actor, action, dead_letter_id, reason, accepted, before, after)
    VALUES ('b', 'one', 'o', 'replay', '00000000-0000-0000-0000-000000000002', 'r', true, '{}', '{}'),
           ('b', 'one', 'o', 'pause', NULL, 'r', true, '{}', '{}');
    INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, location_id, terminal_id, sequence,
                                   currency, amount, status)
    VALUES ('00000000-0000-0000-0000-000000000001', 'b', 'c', 'o', 'l', 't', 7, 'USD', 10, 'under_review');";

/// The last guard, should the code in front of it be wrong: each is tried, and not only looked up.
#[tokio::test]
async fn the_databases_refuse_what_must_not_be_there_twice_or_below_zero_at_a_tender() {
    let points = [
        ("INSERT INTO tender.account (business_id, owner, asset) VALUES ('b', 'c', 'points')", "account_owner_once"),
        ("UPDATE tender.account SET posted = -1", "account_held_within_posted"),
        ("UPDATE tender.account SET held = 11", "account_held_within_posted"),
        ("UPDATE tender.lot SET remaining = -1", "lot_remaining_not_negative"),
        ("UPDATE tender.lot SET remaining = 11", "lot_remaining_within_original"),
        ("UPDATE tender.lot SET remaining = 10, held = 1", "lot_remaining_within_original"),
        (
            "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at)
             SELECT operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at FROM tender.operation",
            "operation_pkey",
        ),
        (
            "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at, request_hash, hash_version)
              SELECT gen_random_uuid(), business_id, account_no, kind, state, amount, response, created_at, updated_at, NULL, 1 FROM tender.operation",
            "operation_hash_has_version",
        ),
        (
            "INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, response, created_at, updated_at, request_hash, hash_version)
              SELECT gen_random_uuid(), business_id, account_no, kind, state, amount, response, created_at, updated_at, 'x', 1 FROM tender.operation",
            "operation_hash_is_whole",
        ),
        ("INSERT INTO tender.entry SELECT * FROM tender.entry WHERE account_no = 1", "entry_version_once"),
        (
            "INSERT INTO tender.credit_reference VALUES ('b', 'earn', 'r', gen_random_uuid()), ('b', 'earn', 'r', gen_random_uuid())",
            "credit_reference_once",
        ),
        (
            "UPDATE tender.lot SET reward_id = '00000000-0000-0000-0000-000000000009';
             INSERT INTO tender.lot (account_no, lot_id, original, remaining, funding, kind, operation_id, reward_id, created_at)
             SELECT account_no, gen_random_uuid(), 1, 1, 'paid', 'earn', operation_id, reward_id, now() FROM tender.lot",
            "lot_reward_once",
        ),
    ];
    refuses(Database::Points, ONE_CREDIT, &points).await;
}

#[tokio::test]
async fn the_databases_refuse_what_must_not_be_there_twice_or_below_zero_in_the_wallet() {
    let wallet = [
        (
            "INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state,
                                    epoch, deadline_at, budget_from, due_at)
             SELECT gen_random_uuid(), business_id, operation, scope, key, request_hash, kind, version, legs_id, plan, state,
                    epoch, deadline_at, budget_from, due_at FROM saga.saga",
            "saga_key",
        ),
        (
            "INSERT INTO saga.dead_letter (saga_id, business_id, code, detail) SELECT saga_id, business_id, code, detail FROM saga.dead_letter",
            "dead_letter_open",
        ),
        (
            "INSERT INTO saga.operator_action (business_id, operation_id, actor, action, dead_letter_id, reason, accepted, before, after)
             SELECT business_id, operation_id, actor, 'resolve', dead_letter_id, reason, true, before, after
             FROM saga.operator_action WHERE dead_letter_id IS NOT NULL",
            "operator_action_once",
        ),
        (
            "INSERT INTO saga.operator_action (business_id, operation_id, actor, action, reason, accepted, before, after)
             SELECT business_id, operation_id, actor, 'resume', reason, true, before, after
             FROM saga.operator_action WHERE dead_letter_id IS NULL",
            "operator_action_alone",
        ),
        (
            "INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, location_id, terminal_id, sequence,
                                            currency, amount, status)
             SELECT gen_random_uuid(), business_id, customer_id, order_id, location_id, terminal_id, sequence, currency, amount, 'pending'
             FROM wallet.redemption",
            "redemption_sequence",
        ),
        ("UPDATE wallet.redemption SET leg_taken = '{6,5}'", "redemption_redeemed_within_amount"),
        ("UPDATE wallet.redemption SET leg_returned = '{1}'", "redemption_legs_returned_within_taken"),
        ("UPDATE wallet.redemption SET leg_taken = '{3,0,0,0,0,0,0,0,0,7}', leg_returned = '{0,0,0,0,0,0,0,0,0,8}'",
            "redemption_legs_returned_within_taken"),
        ("UPDATE wallet.redemption SET leg_taken = '{3,-1}'", "redemption_legs_returned_within_taken"),
        ("UPDATE wallet.redemption SET leg_taken = '{0,0,0,0,0,0,0,0,0,0,1}'", "redemption_legs_are_at_most_ten"),
        ("UPDATE wallet.redemption SET reversal = 'done'", "redemption_reversal_fits"),
        ("UPDATE wallet.redemption SET status = 'declined'", "redemption_reversal_fits"),
        ("UPDATE saga.saga SET response = ''", "saga_answer_not_empty"),
        ("UPDATE saga.saga SET state = 1", "saga_direction_fits"),
        ("UPDATE saga.saga SET hash_version = 1", "saga_hash_has_version"),
        ("UPDATE saga.saga SET request_hash = sha256('x')", "saga_hash_has_version"),
    ];
    refuses(Database::Wallet, ONE_LETTER, &wallet).await;
}

async fn refuses(database: Database, given: &str, edits: &[(&str, &str)]) {
    let test = TestDatabase::create(database).await.without_checks();
    let mut connection = PgConnection::connect_with(&test.admin()).await.expect("a connection");
    run(&mut connection, given).await.expect("what is given");
    for (edit, guard) in edits {
        let error = run(&mut connection, &format!("BEGIN; {edit}; COMMIT")).await.expect_err(edit);
        let refusal = error.as_database_error().expect("a refusal by the database");
        assert_eq!(refusal.constraint(), Some(*guard), "{edit}: {refusal}");
        run(&mut connection, "ROLLBACK").await.expect("an end");
    }
}
