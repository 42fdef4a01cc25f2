//! Every fault that the suite knows, how it is brought about, and how it ends.

use std::time::{Duration, Instant};

use schema::Database;
use testkit::{Mode, Strike, Weather};

use crate::{
    apart,
    cluster::Cluster,
    disk::Disk,
    links::Way,
    load::Load,
    machine::Machine,
    outage::{Outage, Servers},
    parking, points, postgres, races,
    redis::RedisFault,
    sale::Sale,
    scene::{Armed, Scene},
    server::faketime,
    till::Shop,
    who::{Who, older},
};

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
    /// Database servers.
    Outage(Servers, Outage),
    /// The clock of the server of one database alone is ahead by so many seconds, or behind.
    Apart(Database, i64),
    /// The accounts of one tender are locked, though its health is fine: what needs only the others goes on.
    LegsHang(Database),
    /// The wallet's database refuses to show a redemption as under review: sagas are parked all the same.
    ParkingRefused,
    /// The disk of the database servers.
    Disk(Disk),
    /// The machine under everything.
    Machine(Machine),
    /// Redis.
    Redis(RedisFault),
    /// So many more tills, each asking again after so many milliseconds.
    Burst(usize, u64),
    /// So many keys, each used at the same instant on both orchestrators.
    SameKey(usize),
    /// So many redemptions of one balance that covers a part of them.
    OneBalance(usize),
    /// Dead letters are replayed all the time, on both orchestrators, whether their tender is back or not.
    Replays,
}

/// What came of a fault.
#[derive(Debug, Default)]
pub struct Healed {
    /// How often it hit something.
    pub fired: u64,
    /// What tills that it brought along sold.
    pub sales: Vec<Sale>,
    /// What should not have been while it lasted.
    pub complaints: Vec<String>,
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
            Self::Outage(_, outage) => outage.lacks(),
            Self::Apart(..) => faketime().is_none().then_some("libfaketime"),
            _ => None,
        }
    }

    /// Whether it has lasted for as long as it is to last once it has begun.
    #[must_use]
    pub const fn takes_its_time(&self) -> bool {
        matches!(
            self,
            Self::Flap(..)
                | Self::Outage(_, Outage::ClockJumps(_))
                | Self::Apart(..)
                | Self::LegsHang(_)
                | Self::Redis(RedisFault::Full | RedisFault::Told(_))
                | Self::Replays
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
                scene.cluster.node_mut(who).process.terminate();
                armed.fired = 1;
            }
            Self::Freeze(who) => {
                who.iter().for_each(|who| scene.cluster.node_mut(*who).process.stop());
                armed.fired = who.len() as u64;
            }
            Self::Crash(who, point, most) => {
                armed.before = points::logged(scene.cluster, who, point);
                let hit = 1 + scene.dice.below(most);
                points::arm(scene.cluster, who, point, &format!("abort@{hit}")).await;
            }
            Self::Point(who, point, order) => points::arm(scene.cluster, who, point, order).await,
            Self::Disk(disk) => disk.arm(&scene.cluster.servers, &mut armed).await,
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
            Self::Outage(named, outage) => return outage.arm(named, scene, hold).await,
            Self::LegsHang(database) => return apart::legs_hang(scene, database, hold).await,
            Self::ParkingRefused => {
                let server = scene.cluster.server(Database::Wallet);
                armed.before = parking::refusals(server);
                parking::refuse(server).await;
            }
            Self::Apart(database, seconds) => return apart::apart(scene, database, seconds, hold).await,
            Self::Redis(redis) => return redis.arm(scene, hold).await,
            _ => {}
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

    /// Ends it. What it took down is started again, and may take a moment.
    pub async fn heal(&self, scene: &mut Scene<'_>, mut armed: Armed) -> Healed {
        let mut healed = Healed { fired: armed.fired, ..Healed::default() };
        match *self {
            Self::Kill(who, _) => restart(scene.cluster, who),
            Self::KillAfterAnswers(who, _) => restart(scene.cluster, &[who]),
            Self::Terminate(who) => {
                scene.cluster.node_mut(who).process.ended(Duration::from_secs(30)).await;
                restart(scene.cluster, &[who]);
            }
            Self::Freeze(who) => who.iter().for_each(|who| scene.cluster.node_mut(*who).process.resume()),
            Self::Crash(who, point, _) => {
                if scene.cluster.node_mut(who).process.aborted(PATIENCE).await {
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
                healed.fired = disk.heal(&scene.cluster.servers, &armed).await;
                armed.undo.clear();
                for server in &scene.cluster.servers {
                    server.start_if_down().await;
                    postgres::until_ready(server).await;
                }
            }
            Self::Machine(machine) => healed.fired = machine.heal(scene, &armed).await,
            Self::Outage(named, outage) => outage.heal(named, scene, &mut armed).await,
            Self::ParkingRefused => {
                let server = scene.cluster.server(Database::Wallet);
                healed.fired = parking::refusals(server) - armed.before;
                if parking::allow(server).await == 0 {
                    armed.complaints.push("no saga is parked while that is refused".to_owned());
                }
            }
            Self::Apart(database, _) => apart::together(scene.cluster, database).await,
            Self::Redis(redis) => redis.heal(scene).await,
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
        healed.complaints = armed.complaints;
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

async fn kill(scene: &mut Scene<'_>, who: &[Who], times: u32) -> u64 {
    let mut kills = 0;
    for nth in 0..times {
        if nth > 0 {
            who.iter().for_each(|who| scene.cluster.node_mut(*who).process.restart());
            // Into the middle of recovery: it has begun to claim, or is about to.
            tokio::time::sleep(Duration::from_millis(700 + scene.dice.below(1_000))).await;
        }
        for who in who {
            scene.cluster.node_mut(*who).process.kill();
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
    who.iter().for_each(|who| cluster.node_mut(*who).process.restart());
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
