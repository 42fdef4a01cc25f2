//! Every fault that the suite knows, how it is brought about, and how it ends.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use testkit::{Dice, Mode, Strike, Weather};

use crate::{
    Cluster, Load, Sale, Shop, cluster::older, disk::Disk, links::Way, machine::Machine, points, postgres,
    races, redis, server,
};

/// A process, from 0: points, store credit, digital rewards, wallet-1, wallet-2.
pub type Who = usize;

/// The first orchestrator.
pub const WALLET: Who = 3;

/// A fault.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// `kill -9` of these at once; started again so many times, and killed again in the middle of recovery.
    Kill(&'static [Who], u32),
    /// `kill -9` as soon as tills have had so many more answers: what was just told must be true.
    KillAfterAnswers(Who, u64),
    /// SIGTERM: it drains and hands over.
    Terminate(Who),
    /// SIGSTOP, then SIGCONT.
    Freeze(&'static [Who]),
    /// An abort at a fail point, at a hit up to this one.
    Crash(Who, &'static str, u64),
    /// A fail point that does something else: an order of `service::failpoints`.
    Point(Who, &'static str, &'static str),
    /// How a way is, until it is healed.
    Mode(Way, Mode),
    /// The same, on and off every so many milliseconds.
    Flap(Way, Mode, u64),
    /// New connections are refused, and those that are open are cut.
    Refuse(Way),
    /// New connections lead to another process instead, and those that are open are cut.
    Astray(Way, Who),
    /// What everything on a way goes through.
    Weather(Way, Weather),
    /// What hits so many pieces on each connection way.
    Strike(Way, Strike, u32),
    /// So many requests are held on each way, and arrive after what came later.
    Late(Way, u32),
    /// Postgres stops without a checkpoint and starts, so many times.
    PostgresRestarts(u32),
    /// One backend is killed, and takes all others with it.
    PostgresBackendKilled,
    /// Sessions are ended in the middle of what they do, so many times.
    PostgresSessionsEnded(u32),
    /// Statements are cancelled in the middle of what they do, so many times.
    PostgresStatementsCancelled(u32),
    /// Somebody else holds the locks of every account and every saga.
    PostgresLocked,
    /// Somebody else holds whole tables, as a migration does.
    PostgresTablesLocked,
    /// Somebody else takes the locks of accounts in the opposite order, so often.
    PostgresDeadlocks(u32),
    /// Its clock is off by each of these, one after the other, and right in the end.
    PostgresClock(&'static [&'static str]),
    /// The last half second of what it has acknowledged is lost, as in a failover: tills may have been told what is not so.
    PostgresForgets,
    /// Its databases may only be read, as on a standby.
    PostgresReadOnly,
    /// No connection is left.
    PostgresExhausted,
    /// All its backends are stopped.
    PostgresFrozen,
    /// Its disk.
    Disk(Disk),
    /// The machine under everything.
    Machine(Machine),
    /// `kill -9` of Redis, which comes back empty.
    RedisKilled,
    /// Redis has no memory left for writes.
    RedisFull,
    /// Redis is stopped.
    RedisFrozen,
    /// Redis is told this every 100 ms: FLUSHALL, CLIENT KILL…
    RedisTold(&'static str),
    /// So many more tills, each asking again after so many milliseconds.
    Burst(usize, u64),
    /// So many keys, each used at the same instant on both orchestrators.
    SameKey(usize),
    /// So many redemptions of one balance that covers a part of them.
    OneBalance(usize),
    /// Dead letters are replayed all the time, on both orchestrators, whether their tender is back or not.
    Replays,
}

/// A fault that has begun.
#[derive(Default)]
pub struct Armed {
    /// How often it has hit something so far.
    pub(crate) fired: u64,
    /// What was counted before it began.
    pub(crate) before: u64,
    /// What ends it when this is dropped.
    pub(crate) undo: Vec<Undo>,
    frozen: Vec<u32>,
    taken: Vec<PgConnection>,
    extra: Option<Load>,
    sales: Vec<Sale>,
}

/// What has to be done even if the suite fails: it outlives no scenario.
pub(crate) struct Undo(Option<Box<dyn FnOnce() + Send>>);

impl Undo {
    pub(crate) fn with(undo: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(undo)))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}

/// What came of a fault.
#[derive(Debug, Default)]
pub struct Healed {
    /// How often it hit something.
    pub fired: u64,
    /// What tills that it brought along sold.
    pub sales: Vec<Sale>,
}

/// What a fault works on.
pub struct Scene<'a> {
    /// The system.
    pub cluster: &'a mut Cluster,
    /// The tills at work.
    pub load: &'a Load,
    /// The name of the scenario, and its customers.
    pub name: &'a str,
    /// Customers and the reward of each.
    pub customers: &'a [(String, String)],
    /// Decides what chance decides.
    pub dice: &'a mut Dice,
}

/// Longest wait for a fail point to be hit, or for answers to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for every connection to have said something, and to have been cut.
const CUT: Duration = Duration::from_millis(300);

impl Fault {
    /// What this machine lacks for it, if anything: then the scenario is left out, and says so.
    #[must_use]
    pub fn lacks(&self) -> Option<&'static str> {
        match self {
            Self::Disk(disk) => disk.lacks(),
            Self::Machine(machine) => machine.lacks(),
            Self::Crash(who, ..) | Self::Point(who, ..) => {
                older(*who).map(|_| "fail points, which an older version has not")
            }
            Self::PostgresClock(_) => server::faketime().is_none().then_some("libfaketime"),
            _ => None,
        }
    }

    /// Whether it has lasted for as long as it is to last once it has begun.
    #[must_use]
    pub const fn takes_its_time(&self) -> bool {
        matches!(
            self,
            Self::Flap(..) | Self::PostgresClock(_) | Self::RedisFull | Self::RedisTold(_) | Self::Replays
        )
    }

    /// Begins it. `hold`: how long it is to last, for faults that take their time here.
    pub async fn arm(&self, scene: &mut Scene<'_>, hold: Duration) -> Armed {
        let mut armed = Armed::default();
        if let Some(way) = self.way() {
            armed.before = scene.cluster.links.fired(way);
            self.arm_way(scene, way, hold).await;
            return armed;
        }
        match *self {
            Self::Kill(who, times) => armed.fired = kill(scene, who, times).await,
            Self::KillAfterAnswers(who, answers) => armed.fired = kill_after(scene, who, answers).await,
            Self::Terminate(who) => {
                node(scene.cluster, who).process.terminate();
                armed.fired = 1;
            }
            Self::Freeze(who) => {
                who.iter().for_each(|who| node(scene.cluster, *who).process.stop());
                armed.fired = who.len() as u64;
            }
            Self::Crash(who, point, most) => {
                armed.before = points::logged(scene.cluster, who, point);
                let hit = 1 + scene.dice.below(most);
                points::arm(scene.cluster, who, point, &format!("abort@{hit}")).await;
            }
            Self::Point(who, point, order) => points::arm(scene.cluster, who, point, order).await,
            Self::Disk(disk) => disk.arm(&mut armed).await,
            Self::Machine(machine) => machine.arm(scene, &mut armed).await,
            Self::Burst(tills, millis) => {
                let name = format!("{}-burst", scene.name);
                let patience = Duration::from_millis(millis);
                let shop = Shop { name: &name, tills, customers: scene.customers, patience };
                armed.extra = Some(Load::start(scene.cluster, &shop));
            }
            Self::SameKey(count) => {
                armed.sales = races::same_key(scene.cluster, scene.name, scene.customers, count).await;
                armed.fired = armed.sales.len() as u64;
            }
            Self::OneBalance(count) => {
                armed.sales = races::one_balance(scene.cluster, scene.name, count).await;
                armed.fired = armed.sales.len() as u64;
            }
            Self::Replays => armed.fired = races::replays(scene.cluster, hold).await,
            _ => self.arm_server(scene, &mut armed, hold).await,
        }
        armed
    }

    async fn arm_way(&self, scene: &mut Scene<'_>, way: Way, hold: Duration) {
        let seed = scene.dice.throw();
        let proxies = scene.cluster.links.on(way);
        proxies.iter().for_each(|proxy| proxy.seed(seed));
        match *self {
            Self::Mode(_, mode) => proxies.iter().for_each(|proxy| proxy.set(mode)),
            Self::Flap(_, mode, millis) => flap(scene, way, mode, millis, hold).await,
            Self::Refuse(_) => {
                for proxy in proxies {
                    proxy.refuse(true);
                    proxy.set(Mode::Cut);
                }
            }
            Self::Astray(_, who) => {
                let port = scene.cluster.nodes().nth(who).expect("a process").internal_port();
                for proxy in proxies {
                    proxy.lead_astray(port);
                    proxy.set(Mode::Cut);
                }
                tokio::time::sleep(CUT).await;
                scene.cluster.links.on(way).iter().for_each(|proxy| proxy.set(Mode::Pass));
            }
            Self::Weather(_, weather) => proxies.iter().for_each(|proxy| proxy.set_weather(weather)),
            Self::Strike(_, strike, count) => proxies.iter().for_each(|proxy| proxy.strike(strike, count)),
            Self::Late(_, count) => proxies.iter().for_each(|proxy| proxy.hold_next(count)),
            _ => {}
        }
    }

    async fn arm_server(&self, scene: &mut Scene<'_>, armed: &mut Armed, hold: Duration) {
        match *self {
            Self::PostgresRestarts(times) => {
                for _ in 0..times {
                    server::restart().await;
                    armed.fired += 1;
                    tokio::time::sleep(Duration::from_millis(1_000 + scene.dice.below(1_500))).await;
                }
            }
            Self::PostgresBackendKilled => armed.fired = postgres::kill_backend(scene.cluster).await,
            Self::PostgresSessionsEnded(times) => {
                for _ in 0..times {
                    armed.fired += postgres::terminate_sessions(scene.cluster).await;
                    tokio::time::sleep(Duration::from_millis(100 + scene.dice.below(200))).await;
                }
            }
            Self::PostgresStatementsCancelled(times) => {
                for _ in 0..times {
                    armed.fired += postgres::cancel_statements(scene.cluster).await;
                    tokio::time::sleep(Duration::from_millis(20 + scene.dice.below(40))).await;
                }
            }
            Self::PostgresLocked => (armed.taken, armed.fired) = postgres::lock(scene.cluster).await,
            Self::PostgresTablesLocked => {
                armed.taken = postgres::lock_tables(scene.cluster).await;
                armed.fired = armed.taken.len() as u64;
            }
            Self::PostgresDeadlocks(times) => armed.fired = postgres::deadlock(scene.cluster, times).await,
            Self::PostgresClock(offsets) => armed.fired = clock(scene.cluster, offsets, hold).await,
            Self::PostgresForgets => armed.fired = postgres::forget(scene.cluster).await,
            Self::PostgresReadOnly => armed.fired = postgres::set_read_only(scene.cluster, true).await,
            Self::PostgresExhausted => {
                armed.taken = postgres::exhaust(scene.cluster).await;
                armed.fired = armed.taken.len() as u64;
            }
            Self::PostgresFrozen => {
                armed.frozen = postgres::freeze(scene.cluster).await;
                armed.fired = armed.frozen.len() as u64;
            }
            Self::RedisKilled => {
                scene.cluster.redis.kill();
                armed.fired = 1;
            }
            Self::RedisFrozen => {
                scene.cluster.redis.stop();
                armed.fired = 1;
            }
            Self::RedisFull => {
                redis::tell(scene.cluster.redis_port, "CONFIG SET maxmemory 1").await;
                armed.fired = redis::refusals(scene.cluster.redis_port, hold).await;
            }
            Self::RedisTold(command) => {
                let until = Instant::now() + hold;
                while Instant::now() < until {
                    armed.fired += u64::from(redis::tell(scene.cluster.redis_port, command).await);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            _ => {}
        }
    }

    /// Ends it. What it took down is started again, and may take a moment.
    pub async fn heal(&self, scene: &mut Scene<'_>, mut armed: Armed) -> Healed {
        let mut healed = Healed { fired: armed.fired, ..Healed::default() };
        match *self {
            Self::Kill(who, _) => restart(scene.cluster, who),
            Self::KillAfterAnswers(who, _) => restart(scene.cluster, &[who]),
            Self::Terminate(who) => {
                node(scene.cluster, who).process.ended(Duration::from_secs(30)).await;
                restart(scene.cluster, &[who]);
            }
            Self::Freeze(who) => who.iter().for_each(|who| node(scene.cluster, *who).process.resume()),
            Self::Crash(who, point, _) => {
                if node(scene.cluster, who).process.aborted(PATIENCE).await {
                    healed.fired = points::logged(scene.cluster, who, point) - armed.before;
                    // Now and then it is back before anybody has missed it.
                    tokio::time::sleep(Duration::from_millis(scene.dice.below(1_500))).await;
                    restart(scene.cluster, &[who]);
                } else {
                    points::disarm(scene.cluster, who, point).await;
                }
            }
            Self::Point(who, point, order) => {
                healed.fired = points::fired(scene.cluster, who, point, order).await;
                points::disarm(scene.cluster, who, point).await;
            }
            Self::Disk(disk) => {
                healed.fired = disk.heal(scene.cluster, &armed).await;
                armed.undo.clear();
                server::start_if_down().await;
                postgres::until_ready(scene.cluster).await;
            }
            Self::Machine(machine) => healed.fired = machine.heal(scene, &armed).await,
            Self::RedisKilled => scene.cluster.redis.restart(),
            Self::RedisFrozen => scene.cluster.redis.resume(),
            Self::RedisFull => drop(redis::tell(scene.cluster.redis_port, "CONFIG SET maxmemory 0").await),
            Self::PostgresFrozen => postgres::thaw(&armed.frozen),
            Self::PostgresReadOnly => drop(postgres::set_read_only(scene.cluster, false).await),
            Self::PostgresRestarts(_) | Self::PostgresBackendKilled | Self::PostgresClock(_) => {
                postgres::until_ready(scene.cluster).await;
            }
            _ => {}
        }
        drop((armed.undo, armed.taken));
        if let Some(extra) = armed.extra {
            healed.sales = extra.finish().await;
            healed.fired = healed.sales.len() as u64;
        }
        if let Some(way) = self.way() {
            if matches!(self, Self::Astray(..)) {
                // What leads to the wrong place would do so for as long as it is open.
                scene.cluster.links.on(way).iter().for_each(|proxy| proxy.set(Mode::Cut));
                tokio::time::sleep(CUT).await;
            }
            scene.cluster.links.on(way).iter().for_each(|proxy| proxy.heal());
            healed.fired = scene.cluster.links.fired(way) - armed.before;
        }
        healed.sales.extend(armed.sales);
        healed
    }

    /// The way that it is on.
    const fn way(&self) -> Option<Way> {
        match *self {
            Self::Mode(way, _)
            | Self::Flap(way, ..)
            | Self::Refuse(way)
            | Self::Astray(way, _)
            | Self::Weather(way, _)
            | Self::Strike(way, ..)
            | Self::Late(way, _) => Some(way),
            _ => None,
        }
    }
}

/// The process of this number.
pub(crate) fn node(cluster: &mut Cluster, who: Who) -> &mut crate::cluster::Node {
    if who < WALLET { &mut cluster.tenders[who] } else { &mut cluster.wallets[who - WALLET] }
}

async fn kill(scene: &mut Scene<'_>, who: &[Who], times: u32) -> u64 {
    let mut kills = 0;
    for nth in 0..times {
        if nth > 0 {
            who.iter().for_each(|who| node(scene.cluster, *who).process.restart());
            // Into the middle of recovery: it has begun to claim, or is about to.
            tokio::time::sleep(Duration::from_millis(700 + scene.dice.below(1_000))).await;
        }
        for who in who {
            node(scene.cluster, *who).process.kill();
            kills += 1;
        }
    }
    kills
}

async fn kill_after(scene: &mut Scene<'_>, who: Who, answers: u64) -> u64 {
    let (begun, enough) = (Instant::now(), scene.load.answers() + 1 + scene.dice.below(answers));
    while scene.load.answers() < enough {
        if begun.elapsed() > PATIENCE {
            return 0;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    kill(scene, &[who], 1).await
}

fn restart(cluster: &mut Cluster, who: &[Who]) {
    who.iter().for_each(|who| node(cluster, *who).process.restart());
}

async fn flap(scene: &mut Scene<'_>, way: Way, mode: Mode, millis: u64, hold: Duration) {
    let until = Instant::now() + hold;
    while Instant::now() < until {
        for mode in [mode, Mode::Pass] {
            scene.cluster.links.on(way).iter().for_each(|proxy| proxy.set(mode));
            tokio::time::sleep(Duration::from_millis(millis / 2 + scene.dice.below(millis))).await;
        }
    }
}

/// The server's clock jumps, each time under load; how many of the offsets were seen.
async fn clock(cluster: &Cluster, offsets: &'static [&'static str], hold: Duration) -> u64 {
    let mut seen = Vec::new();
    for (nth, offset) in offsets.iter().enumerate() {
        if nth == 0 {
            server::restart_with_clock(offset).await;
        } else {
            server::set_clock(offset);
        }
        tokio::time::sleep(hold / u32::try_from(offsets.len()).unwrap_or(1)).await;
        seen.push(postgres::clock_ahead(cluster).await);
    }
    server::restart().await;
    // By a minute: what is seen late is seen within a second or two.
    let jumps = seen.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 60).count();
    (jumps + usize::from(seen.first().is_some_and(|first| first.abs() > 60))) as u64
}
