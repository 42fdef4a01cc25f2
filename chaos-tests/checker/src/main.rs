//! `checker FOLDER`: says what is wrong with the evidence in a folder. Exit code 1 if anything is.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

fn main() -> io::Result<ExitCode> {
    let Some(folder) = std::env::args_os().nth(1) else {
        writeln!(io::stderr(), "usage: checker FOLDER")?;
        return Ok(ExitCode::from(2));
    };
    let report = checker::check_folder(Path::new(&folder))?;
    let mut out = io::stdout().lock();
    for violation in &report.violations {
        writeln!(out, "{violation}")?;
    }
    writeln!(out, "{} violations in {}", report.violations.len(), report.counts)?;
    for nothing in report.counts.nothing_of() {
        writeln!(out, "there are no {nothing}")?;
    }
    let is_well = report.violations.is_empty() && report.counts.nothing_of().is_empty();
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
