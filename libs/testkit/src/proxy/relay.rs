//! One connection: pieces are read, judged and passed on.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    Mode, Shared,
    strike::{FLOOD, Strike, Weather},
};

/// What is left of a connection.
enum Next {
    GoesOn,
    /// Both sides see an orderly end.
    Closed,
    /// Both sides see a reset.
    Reset,
}

pub(super) async fn relay(client: TcpStream, server: TcpStream, shared: Shared) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut requests =
        Pump { from: from_client, to: to_server, second: None, is_request: true, shared: shared.clone() };
    let mut replies = Pump { from: from_server, to: to_client, second: None, is_request: false, shared };
    // Whichever ends first takes both connections with it.
    let end = tokio::select! {
        end = requests.run() => end,
        end = replies.run() => end,
    };
    if matches!(end, Next::Reset) {
        let _ = (requests.to.as_ref().set_zero_linger(), replies.to.as_ref().set_zero_linger());
    }
}

/// One direction of a connection.
struct Pump {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    /// Gets everything that `to` gets, and its answers are thrown away.
    second: Option<TcpStream>,
    is_request: bool,
    shared: Shared,
}

impl Pump {
    async fn run(&mut self) -> Next {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = self.from.read(&mut buffer).await {
            match self.pass(&mut buffer[..count]).await {
                Ok(Next::GoesOn) => {}
                Ok(end) => return end,
                Err(_) => return Next::Closed,
            }
        }
        Next::Closed
    }

    async fn pass(&mut self, piece: &mut [u8]) -> std::io::Result<Next> {
        self.shared.switches.pieces.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if self.wait_for_release().await.is_none() {
            return Ok(Next::Closed);
        }
        match self.wait_for_mode().await {
            None | Some(Mode::Cut) => return Ok(Next::Closed),
            Some(_) => {}
        }
        let (weather, throw) = self.shared.switches.weather();
        if weather.resets(throw) {
            self.shared.switches.fire();
            return Ok(Next::Reset);
        }
        match self.shared.switches.struck(self.is_request, piece) {
            None => {}
            Some(Strike::Commit) => return Ok(Next::Reset),
            Some(Strike::CommitReply) => {
                self.to.write_all(piece).await?;
                return Ok(Next::Reset);
            }
            Some(Strike::RequestAt(bytes) | Strike::ReplyAt(bytes)) => {
                self.to.write_all(&piece[..bytes]).await?;
                return Ok(Next::Reset);
            }
            Some(Strike::HalfClose) => {
                self.to.write_all(piece).await?;
                self.to.shutdown().await?;
                // The answer may still come; nothing more is asked over this connection.
                return std::future::pending().await;
            }
            Some(Strike::Twice) => self.second = self.shared.connect().await.ok(),
            Some(Strike::Instead(answer)) => {
                self.to.write_all(answer.as_bytes()).await?;
                return Ok(Next::Closed);
            }
            Some(Strike::Flood) => return self.flood().await,
            Some(Strike::Garbage) => {
                let half = piece.len() / 2;
                piece[half..].fill(b'#');
            }
        }
        self.deliver(piece, weather, throw).await?;
        Ok(Next::GoesOn)
    }

    async fn flood(&mut self) -> std::io::Result<Next> {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {FLOOD}\r\n\r\n");
        self.to.write_all(head.as_bytes()).await?;
        let blanks = [b' '; 64 * 1024];
        for _ in 0..FLOOD / blanks.len() {
            self.to.write_all(&blanks).await?;
        }
        Ok(Next::Closed)
    }

    /// `None` when the proxy is gone.
    async fn wait_for_release(&mut self) -> Option<()> {
        use std::sync::atomic::Ordering::SeqCst;
        let hold = &self.shared.switches.hold;
        if self.is_request && hold.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            self.shared.switches.fire();
            self.shared.released.wait_for(|is_released| *is_released).await.ok()?;
        }
        Some(())
    }

    async fn wait_for_mode(&mut self) -> Option<Mode> {
        let held = if self.is_request { Mode::HoldRequests } else { Mode::HoldReplies };
        let passes = |mode: &Mode| *mode != held && *mode != Mode::HoldAll;
        let now = *self.shared.mode.borrow();
        if !passes(&now) || now == Mode::Cut {
            self.shared.switches.fire();
        }
        self.shared.mode.wait_for(passes).await.ok().map(|mode| *mode)
    }

    async fn deliver(&mut self, piece: &[u8], weather: Weather, throw: u64) -> std::io::Result<()> {
        if weather == Weather::default() {
            self.to.write_all(piece).await?;
        } else {
            self.shared.switches.fire();
            let slice = if weather.slice == 0 { piece.len() } else { weather.slice };
            tokio::time::sleep(weather.wait(throw, piece.len())).await;
            for slice in piece.chunks(slice) {
                self.to.write_all(slice).await?;
                if weather.slice != 0 {
                    // Without a pause the kernel would put the slices together again.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        if let Some(second) = &mut self.second {
            let mut unread = [0; 4_096];
            while matches!(second.try_read(&mut unread), Ok(1..)) {}
            if second.write_all(piece).await.is_err() {
                self.second = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Proxy, proxy::Strike};
    use tokio::{io::copy, net::TcpListener};
    use tokio_util::task::TaskTracker;

    /// A server that sends back what it gets, and a proxy before it.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let tasks = TaskTracker::new();
        let connections = tasks.clone();
        tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut from, mut to) = socket.into_split();
                    copy(&mut from, &mut to).await
                });
            }
        });
        Proxy::start("127.0.0.1", port).await
    }

    async fn say(proxy: &Proxy, text: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut socket = TcpStream::connect(("127.0.0.1", proxy.port)).await?;
        socket.write_all(text).await?;
        let mut heard = vec![0; text.len()];
        let mut count = 0;
        while count < text.len() {
            match socket.read(&mut heard[count..]).await? {
                0 => break,
                more => count += more,
            }
        }
        heard.truncate(count);
        Ok(heard)
    }

    #[tokio::test]
    async fn strikes_hit_once_and_are_counted() {
        let proxy = echo().await;
        proxy.strike(Strike::ReplyAt(4), 1);
        let heard = say(&proxy, b"12345678").await;
        assert!(heard.is_err() || heard.is_ok_and(|heard| heard == b"1234"));
        assert_eq!(say(&proxy, b"12345678").await.expect("an echo"), b"12345678");
        proxy.strike(Strike::RequestAt(4), 1);
        assert!(say(&proxy, b"12345678").await.map_or(true, |heard| heard.len() <= 4));
        proxy.strike(Strike::Garbage, 1);
        assert_eq!(say(&proxy, b"12345678").await.expect("an echo"), b"1234####");
        proxy.strike(Strike::HalfClose, 1);
        assert_eq!(say(&proxy, b"POST 678").await.expect("an echo"), b"POST 678");
        proxy.strike(Strike::Instead("HTTP/1.1 503"), 1);
        assert_eq!(say(&proxy, b"HTTP/1.1 200").await.expect("an answer"), b"HTTP/1.1 503");
        assert_eq!(proxy.fired(), 5);
    }

    #[tokio::test]
    async fn what_goes_astray_arrives_elsewhere_until_it_is_healed() {
        let (proxy, other) = (echo().await, Proxy::start("127.0.0.1", 1).await);
        proxy.lead_astray(other.port);
        assert!(say(&proxy, b"12345678").await.map_or(true, |heard| heard.is_empty()));
        proxy.heal();
        assert_eq!(say(&proxy, b"12345678").await.expect("an echo"), b"12345678");
        assert_eq!(proxy.fired(), 1);
    }

    #[tokio::test]
    async fn slices_arrive_whole_and_a_black_hole_lets_go() {
        let proxy = echo().await;
        proxy.set_weather(Weather { slice: 3, latency: Duration::from_millis(2), ..Weather::default() });
        assert_eq!(say(&proxy, b"12345678").await.expect("an echo"), b"12345678");
        proxy.set_weather(Weather::default());
        proxy.set(Mode::HoldAll);
        let held = say(&proxy, b"12345678");
        let release = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            proxy.heal();
        };
        let (heard, ()) = tokio::join!(held, release);
        assert_eq!(heard.expect("an echo"), b"12345678");
        assert!(proxy.fired() >= 3);
    }
}
