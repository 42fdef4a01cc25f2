//! Standard output. Whoever reads it may stop reading (`walletctl … | head`): then there is nobody left to tell.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use serde::Serialize;

/// Prints a line.
pub fn line(text: impl Display) {
    write(&format!("{text}\n"));
}

/// Prints a document over several lines.
///
/// # Errors
/// When it is not one.
pub fn json(document: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(document)?);
    Ok(())
}

/// Prints text as it is.
pub fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if error.kind() == ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("walletctl: cannot write: {error}");
        std::process::exit(1);
    }
}
