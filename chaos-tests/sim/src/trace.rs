//! What happened, line by line. The hash covers every line, whether it is printed or not: two runs that agree on it did
//! the same.

use std::fmt::{self, Write as _};

use crate::Time;

/// A line for each thing that happens.
#[derive(Debug)]
pub struct Trace {
    hash: Fnv,
    print: bool,
}

impl Trace {
    /// An empty trace; `print` sends its lines to standard output as well.
    pub fn new(print: bool) -> Self {
        Self { hash: Fnv(0xcbf2_9ce4_8422_2325), print }
    }

    /// Adds a line.
    #[expect(clippy::print_stdout, reason = "it was asked for")]
    pub fn note(&mut self, at: Time, what: fmt::Arguments<'_>) {
        if self.print {
            println!("{at:>8}  {what}");
        }
        // Hashing cannot fail.
        let _ = self.hash.write_fmt(format_args!("{at} {what}\n"));
    }

    /// The hash of all lines so far.
    pub fn hash(&self) -> u64 {
        self.hash.0
    }
}

/// FNV-1a: the same on every machine and in every version.
#[derive(Debug)]
struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}
