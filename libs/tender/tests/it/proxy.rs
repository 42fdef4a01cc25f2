//! A TCP proxy that knows one trick: it lets a COMMIT through, and cuts the connection before the answer is.

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
};
use tokio_util::{sync::CancellationToken, sync::DropGuard, task::TaskTracker};

/// A proxy in front of Postgres.
pub struct Proxy {
    pub port: u16,
    /// How many COMMITs lose their answer from now on.
    cuts: Arc<AtomicU32>,
    /// How many have lost it.
    pub lost: Arc<AtomicU32>,
    /// Whether new connections are closed at once.
    refuses: Arc<AtomicBool>,
    _stop: DropGuard,
}

impl Proxy {
    pub async fn start(host: String, port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let (cuts, lost) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let refuses = Arc::new(AtomicBool::new(false));
        let is_refusing = refuses.clone();
        let stop = CancellationToken::new();
        let state = (cuts.clone(), lost.clone());
        let tasks = TaskTracker::new();
        let serving = tasks.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if is_refusing.load(Ordering::SeqCst) {
                    continue;
                }
                let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                serving.spawn(relay(client, server, state.0.clone(), state.1.clone()));
            }
        }));
        Self { port: own_port, cuts, lost, refuses, _stop: stop.drop_guard() }
    }

    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    pub fn lose_the_next(&self, commits: u32) {
        self.cuts.store(commits, Ordering::SeqCst);
    }
}

async fn relay(client: TcpStream, server: TcpStream, cuts: Arc<AtomicU32>, lost: Arc<AtomicU32>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whichever ends first takes both connections with it.
    tokio::select! {
        () = to_the_server(from_client, to_server, &cuts, &lost) => {}
        () = copy(from_server, to_client) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn to_the_server(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cuts: &AtomicU32, lost: &AtomicU32) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let sent = &buffer[..count];
        if to.write_all(sent).await.is_err() {
            return;
        }
        let is_commit = sent.windows(7).any(|window| window == b"COMMIT\0");
        let takes_one = |left: u32| left.checked_sub(1);
        if is_commit && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, takes_one).is_ok() {
            lost.fetch_add(1, Ordering::SeqCst);
            // The relay ends here: the server has the COMMIT, the client gets a closed connection.
            return;
        }
    }
}
