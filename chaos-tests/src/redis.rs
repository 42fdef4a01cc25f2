//! What the suite says to Redis: a command a connection, past the proxies.

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
