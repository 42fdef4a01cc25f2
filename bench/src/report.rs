//! Rows: what was measured, against what, and whether the goal was met.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{cost::Cost, load::Figures};

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What it is compared with.
    pub rival: String,
    /// What has to be reached, in words.
    pub goal: String,
    /// What was reached, in words.
    pub reached: String,
    /// How far, where 1 is the goal.
    pub of_goal: f64,
    /// Ours.
    pub ours: Option<Figures>,
    /// The rival's.
    pub theirs: Option<Figures>,
    /// What each of our calls cost.
    pub cost: Option<Cost>,
}

impl Row {
    /// Whether the goal was met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.of_goal >= 1.0
    }

    /// The row as a line.
    #[must_use]
    pub fn line(&self) -> String {
        let verdict = if self.is_met() { "met" } else { "NOT MET" };
        format!("{:<34} {:<28} {:<26} {verdict}", self.name, self.goal, self.reached)
    }

    /// What lies behind it.
    #[must_use]
    pub fn details(&self) -> String {
        let mut text = String::new();
        for (who, figures) in [("ours", &self.ours), (self.rival.as_str(), &self.theirs)] {
            if let Some(f) = figures {
                let _ = writeln!(
                    text,
                    "    {who:<32} {:>8.0}/s  p50 {:.1}  p95 {:.1}  p99 {:.1}  p99.9 {:.1} ms  ({} answered, {} declined, {} shed, {} failed)",
                    f.rate, f.p50, f.p95, f.p99, f.p999, f.answered, f.declined, f.shed, f.failed
                );
            }
        }
        if let Some(cost) = &self.cost {
            let _ = write!(
                text,
                "    each: {:.0} bytes of WAL, {:.2} syncs, {:.2} page images; CPU",
                cost.wal_bytes, cost.wal_syncs, cost.wal_images
            );
            for (name, micros) in &cost.cpu_micros {
                let _ = write!(text, " {name} {micros:.0} µs");
            }
            text.push('\n');
        }
        text
    }
}

/// A run, as it is kept.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the machine could do meanwhile.
    pub machine: Machine,
    /// The rows.
    pub rows: Vec<Row>,
}

/// What the machine could do, before and after the run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Machine {
    /// Microseconds that making 8 KiB durable takes.
    pub sync_micros: (f64, f64),
    /// Million turns of a loop a second on one processor.
    pub spins: (f64, f64),
}

impl Report {
    /// Writes `NAME.json` and `NAME.svg`; where they are.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let json = folder.join(format!("{name}.json"));
        fs::write(&json, serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(folder.join(format!("{name}.svg")), self.picture())?;
        Ok(json)
    }

    /// A bar a row: how far the goal was reached; the line is the goal.
    fn picture(&self) -> String {
        const WIDTH: u32 = 900;
        const LINE: u32 = 34;
        // Where bars begin, how long a bar is that reaches the goal, and what is cut off.
        const LEFT: f64 = 320.0;
        const UNIT: f64 = 180.0;
        const MOST: f64 = 3.0;
        let height = LINE * u32::try_from(self.rows.len() + 1).unwrap_or(1);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n"
        );
        for (number, row) in self.rows.iter().enumerate() {
            let y = f64::from(LINE) * (number as f64 + 0.5);
            let color = if row.is_met() { "#2f855a" } else { "#c53030" };
            let _ = writeln!(
                svg,
                "<text x=\"8\" y=\"{:.0}\">{}</text><rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{:.0}\" height=\"18\" fill=\"{color}\"/><text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
                y + 14.0,
                escape(&row.name),
                y,
                row.of_goal.clamp(0.0, MOST) * UNIT,
                LEFT + row.of_goal.clamp(0.0, MOST) * UNIT + 6.0,
                y + 14.0,
                escape(&row.reached)
            );
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.0}\" x2=\"{0:.0}\" y1=\"0\" y2=\"{height}\" stroke=\"#444\" stroke-dasharray=\"4 3\"/>\n</svg>",
            LEFT + UNIT
        );
        svg
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
