//! Log lines on their way to standard output.
//!
//! A thread that logs copies its line into a buffer; one thread of its own writes the buffer out. Where standard output is
//! a pipe that nobody reads, only that thread waits: the buffer fills, and further lines are dropped and counted
//! (`log_lines_dropped_total`). Once lines can be written again, the log itself says how many were dropped.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::counter;
use tracing_subscriber::fmt::MakeWriter;

/// Most bytes that wait to be written; as many again are being written at most.
const BUFFER_LIMIT: usize = 4 * 1024 * 1024;
/// Pause after each write, in which lines gather: a busy process wakes the writing thread 200 times a second at most.
const GATHER: Duration = Duration::from_millis(5);
/// How often the log says at most that lines were dropped.
const NOTICE_EVERY: Duration = Duration::from_secs(1);

/// Takes log lines without ever waiting for their reader. Clones share the buffer.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    buffer: Mutex<Buffer>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    /// Whole lines.
    lines: Vec<u8>,
    /// Lines that were taken out of the buffer are not written yet.
    is_writing: bool,
    /// Lines dropped since the log said so.
    dropped: u64,
}

impl Default for LogWriter {
    fn default() -> Self {
        Self::with_limit(BUFFER_LIMIT)
    }
}

impl LogWriter {
    fn with_limit(limit: usize) -> Self {
        Self(Arc::new(Shared { limit, buffer: Mutex::default(), changed: Condvar::new() }))
    }

    /// Begins to write to `out`, in a thread of its own that ends with the process.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start(&self, out: impl Write + Send + 'static) -> io::Result<()> {
        let writer = self.clone();
        std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || writer.run(out)).map(drop)
    }

    /// Waits until every line is written, for at most `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        let is_busy = |buffer: &mut Buffer| buffer.is_writing || !buffer.lines.is_empty();
        // Lines that cannot be written in time are lost with the process.
        drop(self.0.changed.wait_timeout_while(self.lock(), limit, is_busy));
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        // A panic while the lock was held left a buffer that is still one.
        self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut buffer = self.lock();
        if buffer.lines.len() + line.len() > self.0.limit {
            buffer.dropped += 1;
            drop(buffer);
            counter!("log_lines_dropped_total").increment(1);
            return;
        }
        let was_empty = buffer.lines.is_empty();
        buffer.lines.extend_from_slice(line);
        drop(buffer);
        if was_empty {
            self.0.changed.notify_all();
        }
    }

    fn run(self, mut out: impl Write) {
        let mut lines = Vec::new();
        let mut told_at: Option<Instant> = None;
        loop {
            self.next(&mut lines);
            let written = out.write_all(&lines).and_then(|()| out.flush());
            self.written(&lines, written.is_ok());
            if told_at.is_none_or(|at| at.elapsed() >= NOTICE_EVERY) && self.tell_dropped() {
                told_at = Some(Instant::now());
            }
            std::thread::sleep(GATHER);
        }
    }

    /// Waits for lines and takes all of them; none after [`NOTICE_EVERY`] if the log has yet to say that lines were dropped.
    fn next(&self, lines: &mut Vec<u8>) {
        lines.clear();
        let mut buffer = self.lock();
        while buffer.lines.is_empty() {
            if buffer.dropped > 0 {
                let waited = self.0.changed.wait_timeout(buffer, NOTICE_EVERY);
                buffer = waited.unwrap_or_else(PoisonError::into_inner).0;
                break;
            }
            buffer = self.0.changed.wait(buffer).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut buffer.lines, lines);
        buffer.is_writing = true;
    }

    fn written(&self, lines: &[u8], is_well: bool) {
        let lost = if is_well { 0 } else { lines.iter().filter(|byte| **byte == b'\n').count() as u64 };
        if lost > 0 {
            counter!("log_lines_dropped_total").increment(lost);
        }
        let mut buffer = self.lock();
        buffer.is_writing = false;
        buffer.dropped += lost;
        drop(buffer);
        self.0.changed.notify_all();
    }

    /// Logs how many lines were dropped, if any were.
    fn tell_dropped(&self) -> bool {
        let dropped = std::mem::take(&mut self.lock().dropped);
        if dropped > 0 {
            tracing::warn!(lines = dropped, "log lines were dropped: standard output was not read");
        }
        dropped > 0
    }
}

impl Write for &LogWriter {
    /// Takes a whole event: the subscriber writes each in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a LogWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Standard output whose reader takes a write whenever the test lets it.
    struct Gate(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_the_order_is_kept() {
        let (open, gate) = mpsc::channel();
        let (sender, written) = mpsc::channel();
        let writer = LogWriter::with_limit(20);
        writer.start(Gate(gate, sender)).unwrap();
        writer.push(b"first\n");
        while !writer.lock().is_writing {
            std::thread::yield_now();
        }
        for line in ["second\n", "third\n", "too much for the buffer\n", "last\n"] {
            writer.push(line.as_bytes());
        }
        assert_eq!(writer.lock().dropped, 1);
        let begun = Instant::now();
        writer.flush(Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50), "lines wait, and the wait has a limit");
        for expected in ["first\n", "second\nthird\nlast\n"] {
            open.send(()).unwrap();
            assert_eq!(written.recv().unwrap(), expected.as_bytes());
        }
        writer.flush(Duration::from_secs(10));
        let buffer = writer.lock();
        assert!(buffer.lines.is_empty() && !buffer.is_writing);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_as_dropped() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let writer = LogWriter::default();
        writer.written(b"a\nb\n", Closed.write_all(b"a\nb\n").is_ok());
        assert_eq!(writer.lock().dropped, 2);
    }
}
