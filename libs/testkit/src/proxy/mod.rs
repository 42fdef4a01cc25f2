//! A TCP proxy between a client and a server of ours, which holds, cuts, slows, repeats or loses what passes on a word from
//! the test.
//!
//! Three kinds of faults, each for connections that are open too: a [`Mode`] is how things are until it is set again; a
//! [`Weather`] is what every piece goes through; a [`Strike`] hits the next so many pieces that it fits. A piece is what one
//! read gives: with requests as small as ours, one request or one answer. [`Proxy::fired`] counts all of it, since a
//! fault that never fired shows nothing.

mod relay;
mod strike;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use relay::relay;
pub use strike::{Dice, Strike, Weather};

/// What happens to bytes that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// Requests wait here; the server sees nothing.
    HoldRequests,
    /// Requests pass, and have their effect; answers wait here.
    HoldReplies,
    /// Nothing passes in either direction: a black hole, until it is lifted.
    HoldAll,
    /// Connections are closed as soon as they say anything.
    Cut,
}

/// A proxy in front of one server. It stops when it is dropped.
pub struct Proxy {
    /// Where clients connect.
    pub port: u16,
    mode: watch::Sender<Mode>,
    released: watch::Sender<bool>,
    switches: Arc<Switches>,
    _stop: DropGuard,
}

/// What the test says and what has happened.
#[derive(Default)]
struct Switches {
    weather: Mutex<Weather>,
    strike: Mutex<Option<(Strike, u32)>>,
    dice: Mutex<Dice>,
    hold: AtomicU32,
    lost: AtomicU32,
    refuses: AtomicBool,
    astray: Mutex<Option<u16>>,
    fired: AtomicU64,
    pieces: AtomicU64,
    connections: AtomicU64,
}

/// What all connections of a proxy share.
#[derive(Clone)]
struct Shared {
    mode: watch::Receiver<Mode>,
    released: watch::Receiver<bool>,
    switches: Arc<Switches>,
    server: Arc<(String, u16)>,
}

impl Shared {
    async fn connect(&self) -> std::io::Result<TcpStream> {
        let astray = *lock(&self.switches.astray);
        if astray.is_some() {
            self.switches.fire();
        }
        TcpStream::connect((self.server.0.as_str(), astray.unwrap_or(self.server.1))).await
    }
}

impl Proxy {
    /// A proxy in front of `host:port`.
    ///
    /// # Panics
    /// When no socket can be had.
    pub async fn start(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let own_port = listener.local_addr().expect("an address").port();
        let (mode, released) = (watch::Sender::new(Mode::Pass), watch::Sender::new(true));
        let switches = Arc::new(Switches::default());
        let shared = Shared {
            mode: mode.subscribe(),
            released: released.subscribe(),
            switches: switches.clone(),
            server: Arc::new((host.to_owned(), port)),
        };
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let relays = tasks.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                shared.switches.connections.fetch_add(1, Ordering::SeqCst);
                if shared.switches.refuses.load(Ordering::SeqCst) {
                    shared.switches.fire();
                    continue;
                }
                // A server that is away is a connection that closes at once.
                if let Ok(server) = shared.connect().await {
                    relays.spawn(relay(client, server, shared.clone()));
                }
            }
        }));
        Self { port: own_port, mode, released, switches, _stop: stop.drop_guard() }
    }

    /// From now on, for connections that are open too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// What every piece goes through from now on; [`Weather::default`] is fine.
    pub fn set_weather(&self, weather: Weather) {
        *lock(&self.switches.weather) = weather;
    }

    /// What chance decides is decided by this seed.
    pub fn seed(&self, seed: u64) {
        *lock(&self.switches.dice) = Dice::new(seed);
    }

    /// Hits the next `count` pieces that the strike fits, in the place of an earlier strike.
    pub fn strike(&self, strike: Strike, count: u32) {
        *lock(&self.switches.strike) = Some((strike, count));
    }

    /// Everything passes again, and what was held goes on.
    pub fn heal(&self) {
        self.set_weather(Weather::default());
        *lock(&self.switches.strike) = None;
        self.refuse(false);
        *lock(&self.switches.astray) = None;
        self.release();
        self.set(Mode::Pass);
    }

    /// Whether new connections are closed at once, as if the server were away.
    pub fn refuse(&self, refuses: bool) {
        self.switches.refuses.store(refuses, Ordering::SeqCst);
    }

    /// New connections lead to another port of the server's host, as with a wrong name in a directory.
    pub fn lead_astray(&self, port: u16) {
        *lock(&self.switches.astray) = Some(port);
    }

    /// Holds the next so many pieces of requests back until [`Proxy::release`], while whatever comes after them passes.
    pub fn hold_next(&self, count: u32) {
        self.released.send_replace(false);
        self.switches.hold.store(count, Ordering::SeqCst);
    }

    /// Whether it holds as many pieces as [`Proxy::hold_next`] said.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.switches.hold.load(Ordering::SeqCst) == 0 && !*self.released.borrow()
    }

    /// Lets go what [`Proxy::hold_next`] holds; true if it held as many as it should.
    pub fn release(&self) -> bool {
        let has_fired = self.switches.hold.swap(0, Ordering::SeqCst) == 0;
        self.released.send_replace(true);
        has_fired
    }

    /// Lets the next so many COMMITs through to Postgres, and cuts the connection before the answer is back.
    pub fn lose_commits(&self, count: u32) {
        self.strike(Strike::CommitReply, count);
    }

    /// How many COMMITs have lost their answer: a fault that never fired shows nothing.
    #[must_use]
    pub fn lost_commits(&self) -> u32 {
        self.switches.lost.load(Ordering::SeqCst)
    }

    /// How many pieces and connections met a fault since the proxy started.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.switches.fired.load(Ordering::SeqCst)
    }

    /// How many pieces have come since the proxy started.
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.switches.pieces.load(Ordering::SeqCst)
    }

    /// How many connections have come since the proxy started.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.switches.connections.load(Ordering::SeqCst)
    }
}

impl Switches {
    fn fire(&self) {
        self.fired.fetch_add(1, Ordering::SeqCst);
    }

    /// The strike that hits this piece, if one does.
    fn struck(&self, is_request: bool, piece: &[u8]) -> Option<Strike> {
        let mut strike = lock(&self.strike);
        let (kind, left) = strike.as_mut()?;
        if *left == 0 || !kind.fits(is_request, piece) {
            return None;
        }
        *left -= 1;
        self.fire();
        if *kind == Strike::CommitReply {
            self.lost.fetch_add(1, Ordering::SeqCst);
        }
        Some(*kind)
    }

    /// The weather, and a throw of the dice for it.
    fn weather(&self) -> (Weather, u64) {
        (*lock(&self.weather), lock(&self.dice).throw())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
