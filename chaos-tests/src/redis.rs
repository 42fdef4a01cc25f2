//! What the suite says to Redis: a command a connection, past the proxies.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Says an inline command; whether Redis did it, to somebody.
pub async fn tell(port: u16, command: &str) -> bool {
    let said = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut answer = [0; 64];
        let count = socket.read(&mut answer).await?;
        std::io::Result::Ok(count > 0 && answer[0] != b'-' && !answer.starts_with(b":0"))
    };
    said.await.unwrap_or(false)
}

/// How often Redis refused to write, in so long.
pub async fn refusals(port: u16, hold: Duration) -> u64 {
    let (until, mut refused) = (Instant::now() + hold, 0);
    while Instant::now() < until {
        refused += u64::from(!tell(port, "SET chaos full PX 1000").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused
}
