//! The commands of operators, against a wallet with dead letters of its own.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use saga::{Config, Engine, Orphan};
use serde_json::{Value, json};
use service::{
    Supervisor,
    accept::{self, Limits},
    db, http,
};
use testkit::{TestDatabase, Tokens};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use wallet::{
    App,
    live::{self, Live, cache::Cache},
    plan::{OrphanPlan, Plan},
    sagas::Sagas,
    tenders::{Addresses, Tenders},
};

/// A wallet whose tenders are away, which its operators can do without.
struct Desk {
    url: String,
    token: String,
    dir: PathBuf,
    engine: Arc<Engine<Sagas>>,
    _stop: DropGuard,
    _database: TestDatabase,
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.engine.crash();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Desk {
    async fn open() -> Self {
        let (tokens, database) = (Tokens::new(), TestDatabase::create(schema::Database::Wallet).await);
        let away = || "http://127.0.0.1:1".to_owned();
        let addresses = Addresses { points: away(), store_credit: away(), digital_rewards: away() };
        let (cache, clock) = (Cache::default(), saga::DatabaseClock::default());
        let tasks = TaskTracker::new();
        let tenders =
            Tenders::init(&addresses, tokens.service("wallet"), Arc::new(cache.clone()), &clock, &tasks)
                .expect("clients");
        let options = db::connect_options(&database.url(), "wallet").expect("a URL");
        let config = Config { scan: Duration::from_millis(100), ..Config::default() };
        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(tasks.clone(), stop.clone());
        let live =
            Live::start(live::Options::default(), cache, tenders.clone(), &supervisor, stop.child_token());
        let sagas = Sagas::new(tenders.clone(), Arc::default(), clock.clone());
        let engine = Engine::start(config, Arc::new(sagas), db::for_executor(options.clone()), clock);
        let app = App::new(engine.clone(), tenders, db::pool(options, 4), live);
        let routes = http::finish(wallet::http::routes(app), tokens.public_verifier());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tasks.spawn(accept::serve(listener, routes, Limits::default(), stop.clone()));
        testkit::until(Duration::from_secs(15), async || engine.is_ready()).await;
        let dir = std::env::temp_dir().join(format!("desk-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).expect("a folder");
        let token = tokens.staff("demo", "ops");
        Self { url, token, dir, engine, _stop: stop.drop_guard(), _database: database }
    }

    /// Dead letters that a replay finishes at once: there is nothing to take back.
    async fn park(&self, count: usize) {
        for number in 0..count {
            let of = api::LegsId(uuid::Uuid::new_v4());
            let orphan = Orphan {
                id: saga::SagaId(uuid::Uuid::now_v7()),
                business_id: "demo".to_owned(),
                name: format!("orphan-{number}"),
                legs_id: of.0,
                has_outlived: false,
                participant: "points".to_owned(),
                plan: Plan::Orphan(OrphanPlan { of, legs: Vec::new() }),
                detail: json!({}),
            };
            assert!(self.engine.park_orphan(&orphan).await.expect("parked"));
        }
    }

    /// Exit code, standard output, standard error.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_walletctl"))
            .args(arguments)
            .current_dir(&self.dir)
            .env_clear()
            .envs([("WALLET_URL", &self.url), ("WALLETCTL_TOKEN", &self.token)])
            .output()
            .expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn told(&self, arguments: &[&str]) -> String {
        let (code, out, error) = self.run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
        out
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.told(&[arguments, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_seen_replayed_and_accounted_for() {
    let desk = Desk::open().await;
    desk.park(30).await;
    let first =
        desk.json(&["dead-letters", "list", "--limit", "20", "--code", "orphan_leg", "--tender", "points"]);
    let cursor = first["next_cursor"].as_str().expect("there are more");
    let rest = desk.told(&["dead-letters", "list", "--cursor", cursor]);
    assert_eq!(rest.lines().count(), 1 + 10, "{rest}");
    assert!(rest.starts_with("DEAD_LETTER_ID"), "{rest}");
    let (letter, saga) = (&first["data"][0]["dead_letter_id"], &first["data"][0]["saga_id"]);
    let shown = desk.told(&["dead-letters", "show", letter.as_str().expect("an id")]);
    assert!(shown.contains("orphan_leg") && shown.contains("+0 ms  Written: orphan"), "{shown}");

    let by_hand = [
        "dead-letters",
        "resolve",
        letter.as_str().expect("an id"),
        "--reason",
        "stays",
        "--reference",
        "T-1",
    ];
    assert!(desk.told(&by_hand).contains("\"done\""));
    let shown = desk.told(&["sagas", "show", saga.as_str().expect("an id")]);
    assert!(shown.contains("Settled by hand by test-ops (T-1): stays"), "{shown}");

    let all =
        ["dead-letters", "replay-all", "--reason", "all is well", "--rate", "500", "--operation-id", "all-1"];
    let dry = desk.json(&[&all[..], &["--dry-run"]].concat());
    assert_eq!((&dry["matched"], &dry["by_code"]["orphan_leg"]), (&json!(29), &json!(29)));
    let (code, out, progress) = desk.run(&all);
    assert_eq!(code, Some(0), "{progress}");
    assert!(progress.contains("the replay all-1 began: 29 dead letters"), "{progress}");
    assert!(progress.contains("29/29 dealt with"), "not a terminal: lines: {progress}");
    assert!(out.lines().any(|line| line.split_whitespace().eq(["replayed", "29"])), "{out}");
    let again = desk.json(&["dead-letters", "replay-all", "--operation-id", "all-1"]);
    assert_eq!(again, desk.json(&["bulk", "show", "all-1"]));
    assert_eq!(desk.told(&["dead-letters", "list"]).trim(), "none");

    let actions =
        desk.json(&["actions", "list", "--operation-id", "all-1", "--action", "replay", "--limit", "200"]);
    assert_eq!(actions["data"].as_array().expect("actions").len(), 29);
    let found = desk.json(&["sagas", "list", "--status", "resolved"]);
    assert_eq!(found["data"].as_array().expect("sagas").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenders_are_paused_and_mistakes_are_told() {
    let desk = Desk::open().await;
    assert_eq!(desk.json(&["tenders", "pause", "points", "--reason", "moved"])["result"], "done");
    let tenders = desk.json(&["tenders", "list"]);
    assert_eq!(
        (&tenders["data"][0]["paused_by"], &tenders["data"][0]["reachable"]),
        (&json!("test-ops"), &json!(false))
    );
    assert_eq!(desk.json(&["tenders", "resume", "points", "--reason", "back"])["paused"], false);
    let refused = desk.json(&["actions", "list", "--accepted", "false"]);
    assert_eq!(refused["data"], json!([]));

    for (arguments, says) in [
        (&["tenders", "pause", "cash", "--reason", "r"][..], "not_found"),
        (&["sagas", "list", "--status", "asleep"], "is no status of a saga"),
        (&["bulk", "show", "never"], "not_found"),
        (&["dead-letters", "replay-all", "--operation-id", "never"], "not_found"),
        (&["dead-letters", "replay-all"], "--reason"),
        (&["dead-letters", "list", "--business", "acme"], "WALLETCTL_TOKEN speaks for `demo`"),
    ] {
        let (code, out, error) = desk.run(arguments);
        assert!(
            code != Some(0) && out.is_empty() && error.contains(says),
            "{arguments:?}: {code:?} {out} {error}"
        );
    }
}
