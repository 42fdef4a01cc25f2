//! Requests that say twice where their body ends.
//!
//! A proxy may believe one header and the server the other: what is a body to one is a second request to
//! the other (request smuggling). hyper keeps `Transfer-Encoding`, drops `Content-Length` and says nothing,
//! so the bytes are watched on their way to it. No body is parsed here: header lines that stand between two
//! empty lines belong together, and no JSON has a line that begins like a header.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};

const CONTENT_LENGTH: &[u8] = b"content-length:";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding:";

/// Finds ambiguous heads in a stream of bytes.
#[derive(Debug, Default)]
struct Scan {
    /// The line's first bytes in small letters, as many as the longer name has.
    line: Vec<u8>,
    lengths: u32,
    encodings: u32,
}

impl Scan {
    /// Whether an ambiguous head ends or goes on in `bytes`.
    fn finds_ambiguity(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| {
            self.step(*byte);
            self.lengths > 1 || (self.lengths > 0 && self.encodings > 0)
        })
    }

    fn step(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                if self.line.is_empty() {
                    (self.lengths, self.encodings) = (0, 0);
                }
                self.line.clear();
            }
            b'\r' => {}
            _ if self.line.len() < TRANSFER_ENCODING.len() => {
                self.line.push(byte.to_ascii_lowercase());
                self.lengths += u32::from(self.line == CONTENT_LENGTH);
                self.encodings += u32::from(self.line == TRANSFER_ENCODING);
            }
            _ => {}
        }
    }
}

/// A socket whose input is watched.
pub(super) struct Watched<S> {
    stream: S,
    scan: Scan,
    is_ambiguous: Arc<AtomicBool>,
    /// Given up with the socket, whatever the connection is upgraded to.
    _place: OwnedSemaphorePermit,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, place: OwnedSemaphorePermit) -> Self {
        Self { stream, scan: Scan::default(), is_ambiguous: Arc::default(), _place: place }
    }

    /// Becomes true with the first ambiguous head, before hyper has seen it, and stays so.
    pub(super) fn is_ambiguous(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_ambiguous)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.scan.finds_ambiguity(&buffer.filled()[before..]) {
            self.is_ambiguous.store(true, Ordering::Release);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_heads_are_found_however_they_are_cut() {
        let ambiguous = "POST / HTTP/1.1\r\nContent-Length: 2\r\nA: b\r\nTRANSFER-ENCODING: chunked\r\n\r\n";
        let twice = "POST / HTTP/1.1\r\ncontent-length: 2\r\nContent-Length: 2\r\n\r\n";
        let second =
            format!("GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}{ambiguous}");
        for text in [ambiguous, twice, &second] {
            for size in [1, 2, 7, text.len()] {
                let mut scan = Scan::default();
                assert!(
                    text.as_bytes().chunks(size).any(|part| scan.finds_ambiguity(part)),
                    "{size}: {text}"
                );
            }
        }
    }

    #[test]
    fn requests_one_after_the_other_are_not_ambiguous() {
        let mut scan = Scan::default();
        let fixed = "POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\n{\"a\":\r\n\"b\"}";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        assert!(!scan.finds_ambiguity(format!("{fixed}{chunked}{fixed}{chunked}").as_bytes()));
        assert!(!scan.finds_ambiguity(b"X-Content-Length: 1\r\nContent-Length: 1\r\n\r\n"));
    }
}
