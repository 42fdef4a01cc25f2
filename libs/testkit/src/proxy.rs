//! A TCP proxy between a client and a server of ours, which holds, cuts or loses what passes on a word from the test.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// What happens to bytes that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// Requests wait here; the server sees nothing.
    HoldRequests,
    /// Requests pass, and have their effect; answers wait here.
    HoldReplies,
    /// Connections are closed as soon as they say anything.
    Cut,
}

/// A proxy in front of one server. It stops when it is dropped.
pub struct Proxy {
    /// Where clients connect.
    pub port: u16,
    mode: watch::Sender<Mode>,
    lose: Arc<AtomicU32>,
    lost: Arc<AtomicU32>,
    hold: Arc<AtomicU32>,
    released: watch::Sender<bool>,
    refuses: Arc<AtomicBool>,
    _stop: DropGuard,
}

/// What all connections of a proxy share.
#[derive(Clone)]
struct Shared {
    mode: watch::Receiver<Mode>,
    lose: Arc<AtomicU32>,
    lost: Arc<AtomicU32>,
    hold: Arc<AtomicU32>,
    released: watch::Receiver<bool>,
}

impl Proxy {
    /// A proxy in front of `host:port`.
    ///
    /// # Panics
    /// When no socket can be had.
    pub async fn start(host: &str, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let own_port = listener.local_addr().expect("an address").port();
        let mode = watch::Sender::new(Mode::Pass);
        let (lose, lost) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (hold, released) = (Arc::new(AtomicU32::new(0)), watch::Sender::new(true));
        let shared = Shared {
            mode: mode.subscribe(),
            lose: lose.clone(),
            lost: lost.clone(),
            hold: hold.clone(),
            released: released.subscribe(),
        };
        let stop = CancellationToken::new();
        let (tasks, host) = (TaskTracker::new(), host.to_owned());
        let relays = tasks.clone();
        let refuses = Arc::new(AtomicBool::new(false));
        let is_refusing = refuses.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                if is_refusing.load(Ordering::SeqCst) {
                    continue;
                }
                // A server that is away is a connection that closes at once.
                if let Ok(server) = TcpStream::connect((host.as_str(), port)).await {
                    relays.spawn(relay(client, server, shared.clone()));
                }
            }
        }));
        Self { port: own_port, mode, lose, lost, hold, released, refuses, _stop: stop.drop_guard() }
    }

    /// From now on, for connections that are open too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Whether new connections are closed at once, as if the server were away.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Holds the next so many pieces of requests back until [`Proxy::release`], while whatever comes after them passes.
    pub fn hold_next(&self, count: u32) {
        self.released.send_replace(false);
        self.hold.store(count, Ordering::SeqCst);
    }

    /// Lets go what [`Proxy::hold_next`] holds; true if it held as many as it should.
    pub fn release(&self) -> bool {
        let has_fired = self.hold.swap(0, Ordering::SeqCst) == 0;
        self.released.send_replace(true);
        has_fired
    }

    /// Lets the next so many COMMITs through to Postgres, and cuts the connection before the answer is back.
    pub fn lose_commits(&self, count: u32) {
        self.lose.store(count, Ordering::SeqCst);
    }

    /// How many COMMITs have lost their answer: a fault that never fired shows nothing.
    #[must_use]
    pub fn lost_commits(&self) -> u32 {
        self.lost.load(Ordering::SeqCst)
    }
}

async fn relay(client: TcpStream, server: TcpStream, shared: Shared) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whichever ends first takes both connections with it.
    tokio::select! {
        () = requests(from_client, to_server, shared.clone()) => {}
        () = replies(from_server, to_client, shared) => {}
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut shared: Shared) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let sent = &buffer[..count];
        let takes_one = |left: u32| left.checked_sub(1);
        if shared.hold.fetch_update(Ordering::SeqCst, Ordering::SeqCst, takes_one).is_ok()
            && shared.released.wait_for(|is_released| *is_released).await.is_err()
        {
            return;
        }
        let mode = shared.mode.wait_for(|mode| *mode != Mode::HoldRequests).await.map(|mode| *mode);
        if mode.is_err() || mode.is_ok_and(|mode| mode == Mode::Cut) || to.write_all(sent).await.is_err() {
            return;
        }
        let is_commit = sent.windows(7).any(|window| window == b"COMMIT\0");
        if is_commit && shared.lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, takes_one).is_ok() {
            shared.lost.fetch_add(1, Ordering::SeqCst);
            return; // the server has it, the client gets a closed connection
        }
    }
}

async fn replies(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut shared: Shared) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let mode = shared.mode.wait_for(|mode| *mode != Mode::HoldReplies).await.map(|mode| *mode);
        if mode.is_err()
            || mode.is_ok_and(|mode| mode == Mode::Cut)
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
}
